import asyncio
import ssl
from contextlib import suppress

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from downloads import CERTIFICATE, LONG, LOOPBACK, SOON, fetch, fetch_from, policy, rejection
from fakes import hosts
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.connect import checked_sockets
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.lenient import LenientClient

#: A line that aiohttp's parser rejects.
ODD = b"HTTP/1.1 200 OK\r\nno colon\r\n"


def test_a_host_is_remembered_so_that_its_next_image_costs_one_request() -> None:
    async def run(server: hosts.HostileServer) -> list[bytes]:
        downloader = Downloader(policy())
        try:
            return [(await downloader.fetch(server.url(path))).body for path in ("/1", "/2")]
        finally:
            await downloader.aclose()

    with hosts.serving(responses={"/1": ODD + b"\r\none", "/2": ODD + b"\r\ntwo"}) as server:
        assert asyncio.run(run(server)) == [b"one", b"two"]
        assert (server.hits["/1"], server.hits["/2"]) == (2, 1)


def test_the_second_reading_goes_to_a_checked_address_too() -> None:
    guard = Guard(ports=frozenset({80}), allowed_networks=LOOPBACK)

    class Rebinding(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            return [ResolveResult(hostname=host, host="10.0.0.1", port=port, family=family, proto=0, flags=0)]

        async def close(self) -> None:
            pass

    client = LenientClient(
        resolver=Rebinding(), socket_factory=checked_sockets(guard), tls=None, connect_timeout=LONG, idle_timeout=LONG
    )

    async def run() -> None:
        async with client.get(guard.target("http://images.example/1"), ()):
            pass

    with pytest.raises(RejectedError) as caught:
        asyncio.run(run())
    assert caught.value.reason is Reason.FORBIDDEN_ADDRESS


def test_the_certificate_is_checked_against_the_name() -> None:
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with hosts.serving(responses={"/1": ODD + b"\r\none"}, tls=listening) as server:
        base = server.base.replace("http://", "https://").replace("https://127.0.0.1", "https://images.example")
        assert fetch(f"{base}/1", lookup=lambda _: ["127.0.0.1"], tls=trusting).body == b"one"
        other = base.replace("images.example", "other.example")
        assert rejection(f"{other}/1", lookup=lambda _: ["127.0.0.1"], tls=trusting) is Reason.TLS_FAILED


def test_a_host_that_falls_silent_is_a_timeout() -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ODD + b"Content-Length: 9\r\n\r\nhal")
        await writer.drain()
        await asyncio.sleep(5)

    with pytest.raises(RejectedError, match="timeout"):
        fetch_from(stop, deadline=SOON)


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda rest: ODD + rest)
    | st.binary(max_size=200).map(lambda rest: ODD + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
)
def test_any_response_becomes_a_body_or_a_reason(response: bytes) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    with suppress(RejectedError):
        assert fetch_from(send).body

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network

import aiohttp
import pytest
from downloads import CERTIFICATE, LONG, LOOPBACK, SOON, fetch, fetch_from, policy, rejection
from fakes import hosts

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web.addresses import DeniedError, Guard
from pixcrawler_worker.web.connect import GuardedResolver, guarded_connector
from pixcrawler_worker.web.downloader import Downloader, Fetched
from pixcrawler_worker.web.hosts import HostClosedError
from pixcrawler_worker.web.resolver import ANSWER_TTL, CachingResolver, system_lookup


@pytest.fixture(scope="module")
def server() -> Iterator[hosts.HostileServer]:
    with hosts.serving() as server:
        yield server


def test_a_port_where_nothing_listens_is_a_failed_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert rejection(f"http://127.0.0.1:{port}/") is Reason.CONNECT_FAILED


def test_a_name_that_does_not_resolve_is_unresolved() -> None:
    def unknown(host: str) -> list[str]:
        raise OSError(f"{host} is unknown")

    assert rejection("http://images.example/", lookup=unknown) is Reason.UNRESOLVED
    assert rejection("http://images.example/", lookup=lambda _: []) is Reason.UNRESOLVED


def test_a_name_server_that_does_not_answer_is_a_timeout_and_does_not_delay_closing() -> None:
    released, ended = threading.Event(), threading.Event()

    def hang(_host: str) -> list[str]:
        released.wait(20)
        ended.set()
        return []

    async def run() -> None:
        downloader = Downloader(policy(lookup_timeout=SOON, deadline=timedelta(minutes=1)), lookup=hang)
        with pytest.raises(RejectedError, match="timeout"):
            await downloader.fetch("http://images.example/")
        await downloader.aclose()

    asyncio.run(run())
    assert not ended.is_set(), "neither the download nor its end waits for the lookup"
    released.set()


def test_the_loopback_is_forbidden_unless_allowed(server: hosts.HostileServer) -> None:
    before = server.hits.total()
    port = int(server.base.rpartition(":")[2])
    strict = policy(allowed_networks=(), ports=frozenset({port}))
    assert rejection(server.url("/good/1.jpg"), allowed=strict) is Reason.FORBIDDEN_ADDRESS
    for answers in (["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        reason = rejection(f"http://images.example:{port}/", allowed=strict, lookup=lambda _, found=answers: found)
        assert reason is Reason.FORBIDDEN_ADDRESS
    assert server.hits.total() == before


def test_a_name_with_one_forbidden_address_is_not_connected_to_at_its_others(server: hosts.HostileServer) -> None:
    port = server.base.rpartition(":")[2]
    before = server.hits.total()
    reason = rejection(f"http://images.example:{port}/good/1.jpg", lookup=lambda _: ["127.0.0.1", "10.0.0.1"])
    assert reason is Reason.FORBIDDEN_ADDRESS
    assert server.hits.total() == before


def test_a_name_that_changes_is_checked_again(server: hosts.HostileServer) -> None:
    now = 0.0
    answers = iter((["127.0.0.1"], ["10.0.0.1"]))
    names = CachingResolver(lambda _: next(answers), patience=LONG, clock=lambda: now)
    resolver = GuardedResolver(Guard(ports=frozenset({80}), allowed_networks=LOOPBACK), names)

    async def found() -> list[str]:
        return [each["host"] for each in await resolver.resolve("images.example", 80)]

    assert asyncio.run(found()) == ["127.0.0.1"]
    now = ANSWER_TTL + 1
    with pytest.raises(DeniedError):
        asyncio.run(found())


def test_what_is_remembered_of_a_name_is_checked_for_every_port() -> None:
    names = CachingResolver(lambda _: ["93.184.215.14"], patience=LONG)
    resolver = GuardedResolver(Guard(ports=frozenset({443})), names)
    assert asyncio.run(resolver.resolve("images.example", 443))
    with pytest.raises(DeniedError, match="port 80"):
        asyncio.run(resolver.resolve("images.example", 80))


def test_a_connection_is_denied_even_for_a_url_that_was_not_checked(server: hosts.HostileServer) -> None:
    port = int(server.base.rpartition(":")[2])

    async def run() -> None:
        guard = Guard(ports=frozenset({port}))
        resolver = GuardedResolver(guard, CachingResolver(system_lookup, patience=LONG))
        connector = guarded_connector(guard, resolver=resolver, tls=None, keep=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(server.url("/good/1.jpg"))
        assert isinstance(caught.value.os_error, DeniedError)

    asyncio.run(run())


def test_localhost_is_resolved_by_the_system_when_its_network_is_allowed(server: hosts.HostileServer) -> None:
    both = policy(allowed_networks=(*LOOPBACK, ip_network("::1/128")))
    url = server.url("/good/1.jpg").replace("127.0.0.1", "localhost")
    assert fetch(url, allowed=both).body == hosts.jpeg("1")


def test_a_certificate_is_checked_against_the_name() -> None:
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))

    def lookup(_host: str) -> list[str]:
        return ["127.0.0.1"]

    down = b"HTTP/1.1 302 Found\r\nLocation: http://images.example/\r\n\r\n"
    with hosts.serving(tls=listening, responses={"/down": down}) as server:
        port = server.base.rpartition(":")[2]
        base = f"https://images.example:{port}"
        assert fetch(f"{base}/good/1.jpg", lookup=lookup, tls=trusting).body == hosts.jpeg("1")
        assert rejection(f"{base}/good/1.jpg", lookup=lookup) is Reason.TLS_FAILED
        other = f"https://other.example:{port}/good/1.jpg"
        assert rejection(other, lookup=lookup, tls=trusting) is Reason.TLS_FAILED
        assert rejection(f"{base}/down", lookup=lookup, tls=trusting) is Reason.INSECURE_REDIRECT


def test_plain_http_behind_an_https_url_is_a_tls_failure() -> None:
    async def respond_in_plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(RejectedError) as caught:
        fetch_from(respond_in_plain_text, scheme="https")
    assert caught.value.reason is Reason.TLS_FAILED


def test_a_name_for_which_no_thread_is_free_may_be_requested_later() -> None:
    release = threading.Event()

    def hang(_host: str) -> list[str]:
        release.wait(10)
        return []

    async def run() -> list[BaseException | Fetched]:
        downloader = Downloader(policy(lookup_timeout=timedelta(seconds=2)), lookup=hang)
        urls = [f"http://h{number}.images.example/" for number in range(6)]
        found = await asyncio.gather(*map(downloader.fetch, urls), return_exceptions=True)
        await downloader.aclose()
        return found

    found = asyncio.run(run())
    release.set()
    assert [type(each) for each in found] == [RejectedError] * 4 + [HostClosedError] * 2

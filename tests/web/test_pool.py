import asyncio
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from datetime import timedelta

import pytest
from downloads import LOOPBACK, fetch, policy, rejection
from fakes import hosts

from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.descriptors import Room
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Hosts
from pixcrawler_worker.web.pool import Pool
from pixcrawler_worker.web.resolver import CachingResolver

COOKIE = b"HTTP/1.1 302 Found\r\nSet-Cookie: a=b\r\nLocation: /good/cookie.jpg?x=1\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[hosts.HostileServer]:
    with hosts.serving(responses={"/cookie": COOKIE}) as server:
        yield server


def test_a_host_gets_the_user_agent_and_its_own_cookie_and_no_other_information(server: hosts.HostileServer) -> None:
    host = server.base.replace("http://127.0.0.1", "images.example")
    fetch(f"http://{host}/cookie", lookup=lambda _: ["127.0.0.1"])
    line, *fields = server.heads["/good/cookie.jpg"].strip().split("\r\n")
    assert line == "GET /good/cookie.jpg?x=1 HTTP/1.1"
    assert sorted(fields) == [
        "Accept-Encoding: identity",
        "Accept: image/*,*/*;q=0.8",
        "Cookie: a=b",
        f"Host: {host}",
        "User-Agent: PixCrawlerTest/1 (+mailto:tests@example.com)",
    ]


def test_with_an_egress_proxy_everything_goes_through_it(server: hosts.HostileServer) -> None:
    def unused(host: str) -> list[str]:
        raise AssertionError(f"{host} must be resolved by the proxy")

    proxied = policy(egress_proxy=server.base)
    assert fetch("http://images.example/good/8.jpg", allowed=proxied, lookup=unused).body == hosts.jpeg("8")
    assert server.heads["/good/8.jpg"].startswith("GET http://images.example/good/8.jpg HTTP/1.1")
    for url in ("http://127.0.0.1/", "http://localhost/"):
        assert rejection(url, allowed=proxied) is Reason.FORBIDDEN_ADDRESS
    assert rejection("http://images.example:8080/", allowed=proxied) is Reason.FORBIDDEN_PORT
    assert rejection("https://images.example/", allowed=proxied) is Reason.CONNECT_FAILED


def test_a_proxy_that_is_away_is_transient_and_keeps_its_password() -> None:
    away = policy(egress_proxy="http://user:hunter2@127.0.0.1:1")
    with pytest.raises(TransientError) as caught:
        fetch("http://images.example/", allowed=away)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_environment_proxies_are_ignored(server: hosts.HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(server.url("/good/1.jpg")).status == 200


@pytest.mark.parametrize(("host", "allowed"), [("images.example", 8), ("upload.wikimedia.org", 2)])
def test_connections_are_reused_and_never_more_than_the_limit_of_a_host(host: str, allowed: int) -> None:
    opened = open_now = peak = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, open_now, peak
        opened, open_now = opened + 1, open_now + 1
        peak = max(peak, open_now)
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        open_now -= 1

    async def run() -> None:
        # The clock stands still: how long requests may queue for a place is not the question here.
        queue = Hosts(clock=lambda: 0.0)
        allowing = policy(deadline=timedelta(seconds=0.9))
        async with (
            aclosing(Downloader(allowing, lookup=lambda _host: ["127.0.0.1"], hosts=queue)) as downloader,
            hosts.listening(converse) as port,
        ):
            # Twenty-five rounds of all connections take 1.25 s; time in the queue does not count against the deadline.
            await asyncio.gather(*(downloader.fetch(f"http://{host}:{port}/") for _ in range(25 * allowed)))

    asyncio.run(run())
    assert opened == peak == allowed


@pytest.mark.parametrize(("idle", "opened"), [(512, 2), (0, 5)])
def test_a_host_that_is_requested_again_keeps_its_connection_while_there_is_room(idle: int, opened: int) -> None:
    """Also if no chunk has two of its URLs: the first request cannot know of the others."""
    connections = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async def run() -> None:
        guard = Guard(ports=frozenset(), allowed_networks=LOOPBACK)
        names = CachingResolver(lambda _host: ["127.0.0.1"], patience=timedelta(seconds=5))
        pool = Pool.open(policy(), guard, Hosts(), names=names, tls=None)
        pool.room = Room(open=8, idle=idle)
        async with hosts.listening(converse) as port:
            for _ in range(5):
                async with (
                    pool.connection("images.example", keep=False, patience=1) as session,
                    session.get(f"http://images.example:{port}/") as response,
                ):
                    assert await response.read() == b"hi"
            await pool.aclose()

    asyncio.run(run())
    assert connections == opened


def test_idle_connections_of_many_hosts_stay_within_their_room() -> None:
    async def run() -> list[bool]:
        guard = Guard(ports=frozenset(), allowed_networks=LOOPBACK)
        names = CachingResolver(lambda _host: ["127.0.0.1"], patience=timedelta(seconds=5))
        pool = Pool.open(policy(), guard, Hosts(), names=names, tls=None)
        pool.room = Room(open=64, idle=10)
        kept = []
        for number in range(20):
            async with pool.connection(f"{number}.example", keep=True, patience=1) as session:
                kept.append(session is pool.kept)
        async with pool.connection("0.example", keep=True, patience=1) as session:
            kept.append(session is pool.kept)
        await pool.aclose()
        return kept

    assert asyncio.run(run()) == [True] * 10 + [False] * 10 + [True]


def test_a_closed_downloader_opens_again_in_another_loop(server: hosts.HostileServer) -> None:
    downloader = Downloader(policy())

    async def run() -> int:
        try:
            return (await downloader.fetch(server.url("/good/1.jpg"))).status
        finally:
            await downloader.aclose()

    assert [asyncio.run(run()), asyncio.run(run())] == [200, 200]

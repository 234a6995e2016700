"""A host with rules: how many requests a second, how many connections at a time, how fast, and what was broken."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from fakes.hosts import jpeg

#: Decides about a request: the response in place of an image, None for the image.
Rule = Callable[["PoliteHost", web.BaseRequest], web.StreamResponse | None]


@dataclass
class PoliteHost:
    """Sends an image for every path, as far as its rule lets it.

    Attributes:
        rule: decides about each request but the one for robots.txt.
        seconds: before a response.
        dead: whether it answers nothing at all.
        base: its URL.
        requests: when each image was requested, by the monotonic clock, with the path.
        connections: open now.
        most_connections: open at a time, at most.
        sent: images that were sent.
        drips: path prefix of bodies that never end.
    """

    rule: Rule | None = None
    seconds: float = 0.0
    dead: bool = False
    base: str = ""
    requests: list[tuple[float, str]] = field(default_factory=list)
    connections: int = 0
    most_connections: int = 0
    sent: int = 0
    tokens: float = 0.0
    refilled: float = 0.0
    closed_until: float = 0.0
    forbidden: list[float] = field(default_factory=list)

    def urls(self, name: str, count: int) -> list[str]:
        """Return the URLs of so many images."""
        return [f"{self.base}/{name}-{number}.jpg" for number in range(count)]

    def count(self, path: str) -> int:
        """Return how often a path was requested."""
        return sum(requested == path for _, requested in self.requests)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.dead:
            await asyncio.sleep(600)
        if request.path == "/robots.txt":
            raise web.HTTPNotFound
        now = time.monotonic()
        self.requests.append((now, request.path))
        if self.rule and (answer := self.rule(self, request)):
            return answer
        if "/drip" in request.path:
            return await self._drip(request)
        if "/silent" in request.path or ("/once-silent" in request.path and self.count(request.path) == 1):
            await asyncio.sleep(60)
        await asyncio.sleep(self.seconds)
        self.sent += 1
        return web.Response(body=jpeg(f"{request.host}{request.path_qs}"), content_type="image/jpeg")

    async def _drip(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.2)
        return response


def per_second(rate: float, retry_after: str | None = "1") -> Rule:
    """Allow so many requests a second, and answer 429 to the others."""

    def rule(host: PoliteHost, _: web.BaseRequest) -> web.Response | None:
        now = time.monotonic()
        host.tokens = min(rate, host.tokens + (now - (host.refilled or now - 1)) * rate)
        host.refilled = now
        if host.tokens >= 1:
            host.tokens -= 1
            return None
        return web.Response(status=429, headers={"Retry-After": retry_after} if retry_after else {})

    return rule


def closed_after(images: int, *, seconds: float, status: int = 429) -> Rule:
    """Send so many images, then ask once to be left alone, and count what comes before the time is over."""

    def rule(host: PoliteHost, _: web.BaseRequest) -> web.Response | None:
        now = time.monotonic()
        if not host.closed_until and host.sent >= images:
            host.closed_until = now + seconds
        if not host.closed_until or now >= host.closed_until:
            return None
        # What was on its way when the first answer went out could not know of it.
        if now > host.closed_until - seconds + 0.5:
            host.forbidden.append(now - host.closed_until + seconds)
        return web.Response(status=status, headers={"Retry-After": str(round(host.closed_until - now + 0.5))})

    return rule


@contextlib.contextmanager
def serving(
    rule: Rule | None = None, *, seconds: float = 0.0, dead: bool = False, everywhere: bool = False
) -> Iterator[PoliteHost]:
    """Run a host on a port of its own, in a thread; with `everywhere`, at each address of the loopback network."""
    host = PoliteHost(rule, seconds, dead)
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with _listening(host, "0.0.0.0" if everywhere else "127.0.0.1"):
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield host
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


@contextlib.asynccontextmanager
async def _listening(host: PoliteHost, address: str) -> AsyncIterator[None]:
    server = web.Server(host.handle)

    def factory() -> asyncio.Protocol:
        return _Counted(server(), host)

    listening = await asyncio.get_running_loop().create_server(factory, address, 0, backlog=1024)
    host.base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield
    finally:
        listening.close()
        await server.shutdown(1)


class _Counted(asyncio.Protocol):
    """A connection that is counted while it is open."""

    def __init__(self, protocol: asyncio.Protocol, host: PoliteHost) -> None:
        self._protocol, self._host = protocol, host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._host.connections += 1
        self._host.most_connections = max(self._host.most_connections, self._host.connections)
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections -= 1
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

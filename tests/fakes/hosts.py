"""A web server of untrusted hosts: good images, and every way in which a host can go wrong.

    with serving() as server:
        server.url("/good/7.jpg")       # a small JPEG, a different one for every number
        server.url("/fault/reset/7")    # see FAULTS
        server.hits["/good/7.jpg"]      # number of requests for it

As a process of its own it prints its base URL: `python tests/fakes/hosts.py --port 0`; `GET /hits` returns the
counts as JSON. It writes HTTP by hand, since most faults are things that no HTTP library would send.
"""

import argparse
import asyncio
import gzip
import io
import json
import random
import socket
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, partial
from urllib.parse import urlsplit
from weakref import WeakSet

from PIL import Image

HTML = b"<!doctype html><title>Not here</title><p>The image that you are looking for has moved."


@cache
def jpeg(number: str) -> bytes:
    """Return an image of 96x64 soft color patches that differ for every number, in bytes and to the eye."""
    patches = Image.frombytes("RGB", (12, 8), random.Random(number).randbytes(12 * 8 * 3))
    return _saved(patches.resize((96, 64), Image.Resampling.BICUBIC), "JPEG")


@cache
def png(number: str) -> bytes:
    return _saved(Image.open(io.BytesIO(jpeg(f"png {number}"))), "PNG")


@cache
def bomb() -> bytes:
    """Return a PNG of 177 bytes that announces 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class HostileServer:
    """Listens on one port of the loopback interface.

    Args:
        delay: seconds that every good image takes.
        responses: raw responses for further paths; the connection closes after each.
    """

    def __init__(self, *, delay: float = 0, responses: Mapping[str, bytes] | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self.heads: dict[str, str] = {}
        self.base = ""
        self._delay = delay
        self._responses = responses or {}

    def url(self, path: str) -> str:
        return self.base + path

    @asynccontextmanager
    async def listening(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        async with listening(self._converse, port=port, tls=tls) as bound:
            self.base = f"{'https' if tls else 'http'}://127.0.0.1:{bound}"
            yield

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = urlsplit(head.split(" ", 2)[1]).path
            self.hits[path] += 1
            self.heads[path] = head
            await self._respond(path, writer)
            await writer.drain()

    async def _respond(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path in self._responses:
            writer.write(self._responses[path])
            writer.close()
            return
        match path.removesuffix(".jpg").split("/")[1:]:
            case ["good", number]:
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(_response(jpeg(number)))
            case ["fault", "flaky", _]:
                first = self.hits[path] == 1
                writer.write(_response(HTML, status=500, kind="text/html") if first else _response(jpeg(path)))
            case ["fault", kind, number] if kind in WRITTEN:
                writer.write(WRITTEN[kind](number))
            case ["fault", kind, _] if kind in ACTED:
                await ACTED[kind](writer)
            case ["hits"]:
                writer.write(_response(json.dumps(self.hits).encode(), kind="application/json"))
            case _:
                writer.write(_response(HTML, status=404, kind="text/html"))


@asynccontextmanager
async def listening(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Handle each connection to a port of the loopback interface with `converse`; leave nothing open at the end."""
    conversations: set[asyncio.Task[None]] = set()
    transports: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await converse(reader, writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transports.add(writer.transport)
        if not server.is_serving():
            writer.transport.abort()  # accepted while the server was closing
            return
        task = asyncio.create_task(run(reader, writer))
        conversations.add(task)
        task.add_done_callback(conversations.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        for transport in transports:
            transport.abort()
        await asyncio.gather(*conversations, return_exceptions=True)


@contextmanager
def serving(
    *, delay: float = 0, responses: Mapping[str, bytes] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[HostileServer]:
    """Run a server in a thread of this process."""
    server = HostileServer(delay=delay, responses=responses)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    done = asyncio.Event()

    async def serve() -> None:
        async with server.listening(tls=tls):
            ready.set()
            await done.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="hosts", daemon=True)
    thread.start()
    try:
        assert ready.wait(10), "the server did not start"
        yield server
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)


def _response(body: bytes, *, status: int = 200, kind: str = "image/jpeg", **headers: str) -> bytes:
    fields = {"Content-Type": kind, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1") + body


def _rejection(status: int, _number: str) -> bytes:
    return _response(HTML, status=status, kind="text/html")


def _redirect(location: str) -> bytes:
    return _response(HTML, status=302, kind="text/html", location=location)


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=85)
    return file.getvalue()


async def _reset(writer: asyncio.StreamWriter) -> None:
    writer.write(_response(jpeg("reset"))[:-1000])
    await writer.drain()
    await asyncio.sleep(0.02)  # a reset discards what the other side has not read yet
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _truncated(writer: asyncio.StreamWriter) -> None:
    writer.write(_response(jpeg("truncated"))[:-1000])
    writer.close()


async def _short_chunked(writer: asyncio.StreamWriter) -> None:
    part = jpeg("chunked")[:500]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%b\r\n%x\r\n%b" % (len(part), part, 4096, part))
    writer.close()


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg("endless"))
    while not writer.is_closing():
        writer.write(bytes(65536))
        await writer.drain()


async def _slow(writer: asyncio.StreamWriter) -> None:
    writer.write(_response(jpeg("slow"))[:-1000])
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(1)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _not_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01SSH-2.0-OpenSSH_9.2\r\n\xff\xfe\r\n\r\n")
    writer.close()


#: Faults that are responses. wrong-type and duplicate are good images, redirect-ok leads to one.
WRITTEN: dict[str, Callable[[str], bytes]] = {
    **{str(status): partial(_rejection, status) for status in (403, 404, 410, 429, 500)},
    "html": lambda _: _response(HTML, kind="text/html; charset=utf-8"),
    "html-as-jpeg": lambda _: _response(HTML),
    "wrong-type": lambda number: _response(png(number), kind="text/plain"),
    "redirect-loop": lambda number: _redirect(f"/fault/redirect-loop/{number}"),
    "redirect-private": lambda _: _redirect("http://169.254.169.254/latest/meta-data/"),
    "redirect-file": lambda _: _redirect("file:///etc/passwd"),
    "redirect-ok": lambda number: _redirect(f"../../good/redirected-{number}.jpg"),
    "no-location": lambda _: _response(b"", status=302),
    "gzip": lambda number: _response(gzip.compress(jpeg(number)), content_encoding="gzip"),
    "empty": lambda _: _response(b""),
    "bomb": lambda _: _response(bomb(), kind="image/png"),
    "truncated-image": lambda number: _response(jpeg(f"truncated {number}")[:-1000]),
    "duplicate": lambda _: _response(jpeg("0")),
}

#: Faults that are behavior.
ACTED: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    "reset": _reset,
    "truncated": _truncated,
    "short-chunked": _short_chunked,
    "endless": _endless,
    "slow": _slow,
    "close": _close,
    "not-http": _not_http,
}

FAULTS = ("flaky", *WRITTEN, *ACTED)


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve good and bad images on the loopback interface.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay", type=float, default=0, help="seconds that every good image takes")
    options = parser.parse_args()
    server = HostileServer(delay=options.delay)
    async with server.listening(port=options.port):
        print(server.base, flush=True)  # noqa: T201  the caller reads where to find it
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())

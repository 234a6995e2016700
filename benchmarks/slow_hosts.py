"""How much of its rate a crawl keeps when its hosts take their time, as a ratio to the same hosts without a delay.

    python benchmarks/slow_hosts.py [--images 6000] [--hosts 200] [--milliseconds 200] [--bytes 15000] [--runs 3]

All hosts are addresses of loopback, behind one server that waits before it answers.
"""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import frame
import photographs
from crawl import time_crawl
from stage import families, service, worker

from pixcrawler_worker.runtime import Runtime


class _Answering(asyncio.Protocol):
    """HTTP as far as a crawler needs it: a GET, answered after the seconds that the first part of its path names."""

    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies = bodies
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request."""
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            request, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            _, milliseconds, _, name = [*path.split("/"), "", "", ""][:4]
            if milliseconds == "0" or not milliseconds.isdigit():
                self._answer(name)
            else:
                asyncio.get_running_loop().call_later(int(milliseconds) / 1000, self._answer, name)

    def _answer(self, name: str) -> None:
        if self._transport.is_closing():
            return
        number = name.removesuffix(".jpg")
        if not number.isdigit():
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        body = self._bodies[int(number) % len(self._bodies)]
        length = len(body) + len(number)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
        self._transport.write(head.encode() + body + number.encode())


def serve(size: int, ready: "multiprocessing.Queue[int]") -> None:
    """Serve until killed."""

    async def main() -> None:
        bodies = photographs.jpegs(size)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Answering(bodies), "0.0.0.0", 0, backlog=4096, reuse_port=True
        )
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def slow_server(size: int) -> Iterator[int]:
    """Run the server in a process of its own, and yield its port."""
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=serve, args=(size, ready), daemon=True)
    process.start()
    try:
        yield ready.get()
    finally:
        process.kill()
        process.join()


def urls(port: int, milliseconds: int, *, images: int, hosts: int, turn: int) -> list[str]:
    """Return URLs that go around the hosts, with other bytes each turn."""
    known = photographs.addresses(hosts)
    return [
        f"http://{known[number % hosts]}:{port}/{milliseconds}/x/{turn * images + number}.jpg"
        for number in range(images)
    ]


def crawl(opened: Runtime, roots: list[int], given: list[str]) -> frame.Run:
    """Crawl the URLs and return what that took."""
    with frame.measured(*roots) as usage:
        seconds = time_crawl(opened, given)
    return frame.Run(len(given), seconds, usage.cpu, usage.peak)


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--milliseconds", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--bytes", type=int, default=15_000, help="approximate size of an image")
    args = parser.parse_args()
    with (
        slow_server(args.bytes) as port,
        service(PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8") as opened,
        worker() as pid,
    ):
        given = partial(urls, port, images=args.images, hosts=args.hosts)
        roots = [pid, *families(Path(opened.settings.data_dir))]
        time_crawl(opened, given(0, turn=0)[:200])
        contenders = {
            f"{delay} ms": partial(crawl, opened, roots, given(delay, turn=turn + 1))
            for turn, delay in enumerate([0, *args.milliseconds])
        }
        runs = frame.alternate(contenders, args.runs)
    topic = frame.Topic("latency", "images", "0 ms", title=f"Crawl of {args.hosts} hosts by their latency")
    frame.publish(topic, runs, write=args.write)


if __name__ == "__main__":
    main()

"""The peak memory of a worker's processes: of the decoder for the largest legal images, and of a worker under load.

    python benchmarks/memory.py [--pixels 50000000 25000000 12000000] [--only NAME...] [--operations NAME...]
        [--skip-worker]

Peak memory is the `VmHWM` that Linux reports for a process: the largest resident set since its start. Each image goes
to a new decoder process, so no figure includes an earlier image. Images are as large as the default limits allow:
50,000,000 pixels, 500 frames, 500,000,000 pixels in all frames, 20 MiB.
"""

import argparse
import asyncio
import io
import itertools
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from stage import PROCESSES, ended, jpeg, service, worker

from pixcrawler_worker import client, runtime
from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

_MAX_BYTES = 20 * 1024 * 1024
#: A busy machine must not end a measurement.
_SECONDS = 120.0
_MB = 1_000_000
#: Addresses of loopback that serve images, so that no limit per host slows the downloads down.
_HOSTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of writing an image.

    Attributes:
        name: for the table.
        format: Pillow's name.
        mode: Pillow's mode.
        options: of Pillow's `save`.
        frames: of an animation, each as large as the limit on all frames allows.
        max_pixels: fewer than the limit where a file of 20 MiB holds no more.
    """

    name: str
    format: str
    mode: str
    options: dict[str, Any]
    frames: int = 1
    max_pixels: int = 50_000_000


CASES = (
    Case(name="JPEG", format="JPEG", mode="RGB", options={"quality": 75}),
    Case(name="JPEG, progressive", format="JPEG", mode="RGB", options={"quality": 75, "progressive": True}),
    Case(
        name="JPEG, progressive, 4:4:4",
        format="JPEG",
        mode="RGB",
        options={"quality": 75, "progressive": True, "subsampling": 0},
    ),
    Case(name="JPEG, progressive, CMYK", format="JPEG", mode="CMYK", options={"quality": 75, "progressive": True}),
    Case(name="PNG", format="PNG", mode="RGB", options={}),
    Case(name="PNG with alpha", format="PNG", mode="RGBA", options={}),
    Case(name="PNG, 16 bits of gray", format="PNG", mode="I;16", options={}),
    Case(name="WebP, lossy", format="WEBP", mode="RGB", options={"quality": 75, "method": 0}),
    Case(name="WebP, lossy, with alpha", format="WEBP", mode="RGBA", options={"quality": 75, "method": 0}),
    Case(name="WebP, lossless", format="WEBP", mode="RGB", options={"lossless": True, "quality": 0, "method": 0}),
    Case(
        name="WebP, lossless, with alpha",
        format="WEBP",
        mode="RGBA",
        options={"lossless": True, "quality": 0, "method": 0},
        max_pixels=40_000_000,
    ),
    Case(name="TIFF, deflate", format="TIFF", mode="RGB", options={"compression": "tiff_deflate"}),
    Case(name="TIFF, deflate, with alpha", format="TIFF", mode="RGBA", options={"compression": "tiff_deflate"}),
    Case(name="TIFF, deflate, floats", format="TIFF", mode="F", options={"compression": "tiff_deflate"}),
    Case(name="AVIF", format="AVIF", mode="RGB", options={"speed": 10, "quality": 60}),
    Case(name="AVIF with alpha", format="AVIF", mode="RGBA", options={"speed": 10, "quality": 60}),
    Case(name="GIF", format="GIF", mode="P", options={}),
    Case(name="GIF, 500 frames", format="GIF", mode="P", options={}, frames=500),
    Case(name="WebP, 500 frames", format="WEBP", mode="RGB", options={"quality": 50, "method": 0}, frames=500),
    Case(name="BMP, 1 bit", format="BMP", mode="1", options={}),
    Case(name="BMP, 24 bits", format="BMP", mode="RGB", options={}, max_pixels=6_900_000),
)

Operation = Callable[[Decoder, bytes], Awaitable[object]]


def operations(side: int) -> dict[str, Operation]:
    """Return what crawls, validations, reports, and exports to so many pixels a side do with an image."""

    def to(format_: str) -> Operation:
        conversion = Conversion(format=format_, mode="fit", size=side)
        return lambda decoder, body: decoder.convert(body, conversion)

    return {
        "inspect": lambda decoder, body: decoder.inspect(body),
        "measure": lambda decoder, body: decoder.measure(body, strict=True, seconds=_SECONDS),
        "thumbnail": lambda decoder, body: decoder.thumbnail(body, side=160),
        "to JPEG": to("jpg"),
        "to PNG": to("png"),
        "to WebP": to("webp"),
        "to AVIF": to("avif"),
    }


def encode(case: Case, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """Return a file of so many pixels at most, and its width and height."""
    limits = Limits(max_pixels=max_pixels)
    pixels = min(case.max_pixels, max_pixels)
    if case.frames > 1:
        pixels = min(pixels, limits.max_frame_pixels // case.frames)
    width = int((pixels * 4 / 3) ** 0.5)
    size = (width, pixels // width)
    # Blocks of one color keep lossless files below 20 MiB; decoders allocate by pixels and not by content.
    noise = random.Random(0)
    blocks = (max(1, size[0] // 32), max(1, size[1] // 32))
    image = _frame(case.mode, size, blocks, noise)
    written = io.BytesIO()
    if case.frames > 1:
        # The next frames differ in a corner only, which is all that encoders store of them.
        changed = image.copy()
        changed.paste(image.crop((size[0] - 64, size[1] - 64, *size)), (0, 0))
        more = list(itertools.islice(itertools.cycle((changed, image)), case.frames - 1))
        image.save(written, case.format, save_all=True, append_images=more, **case.options)
    else:
        image.save(written, case.format, **case.options)
    return written.getvalue(), size


def _frame(mode: str, size: tuple[int, int], blocks: tuple[int, int], noise: random.Random) -> Image.Image:
    bands = "RGBA" if mode == "RGBA" else "L" if mode in {"I;16", "F", "1", "P"} else "RGB"
    small = Image.frombytes(bands, blocks, noise.randbytes(blocks[0] * blocks[1] * len(bands)))
    if mode == "I;16":
        small = small.convert("I").point(lambda value: value * 257).convert("I;16")
    elif small.mode != mode:
        small = small.convert(mode)
    return small.resize(size, Image.Resampling.NEAREST)


def peak_bytes(pid: int) -> int:
    """Return the largest resident set that a process has had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


async def decoder_peak(body: bytes, operation: Operation, limits: Limits) -> str:
    """Return the peak of a new decoder process in MB, or the reason for which it rejects the image."""
    async with aclosing(Decoder(limits)) as decoder:
        try:
            await operation(decoder, body)
        except RejectedError as rejection:
            return rejection.reason.value
        assert decoder.pid
        return f"{peak_bytes(decoder.pid) / _MB:.0f}"


def print_decoder_table(max_pixels: int, names: list[str], chosen: list[str]) -> None:
    """Print one row per case with the peak of the chosen operations."""
    limits = Limits(max_pixels=max_pixels, seconds=_SECONDS)
    print(f"\nPeak MB of a decoder, PIXCRAWLER_MAX_IMAGE_PIXELS={max_pixels}\n")
    print("| Image | Size | File | " + " | ".join(chosen) + " |")
    print("| --- " * (3 + len(chosen)) + "|")
    _print_row("(a JPEG of 120 kB)", jpeg(1, 120_000), (684, 684), limits, chosen)
    for case in CASES:
        if not names or any(name in case.name for name in names):
            body, size = encode(case, max_pixels)
            assert len(body) <= _MAX_BYTES, f"{case.name} has {len(body):,} bytes"
            _print_row(case.name, body, size, limits, chosen)


def _print_row(title: str, body: bytes, size: tuple[int, int], limits: Limits, chosen: list[str]) -> None:
    # Exports that keep nearly the size need the most: the original and the resized image are in memory together.
    every = operations(max(size) - 16)
    peaks = [asyncio.run(decoder_peak(body, every[name], limits)) for name in chosen]
    print(f"| {title} | {size[0]}x{size[1]} | {len(body) / _MB:.1f} MB | " + " | ".join(peaks) + " |", flush=True)


@contextmanager
def serving(body: bytes, padding: int) -> Iterator[list[str]]:
    """Serve distinct files of `body`, zeros and a number on several addresses of loopback; yield the base URLs."""
    zeros = bytes(padding)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.endswith(".jpg")
            tail = self.path.encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body) + len(zeros) + len(tail) if found else 0))
            self.end_headers()
            if found:
                for part in (body, zeros, tail):
                    self.wfile.write(part)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with ExitStack() as stack:
        bases = []
        for host in range(1, _HOSTS + 1):
            server = stack.enter_context(ThreadingHTTPServer((f"127.0.0.{host}", 0), Handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            bases.append(f"http://127.0.0.{host}:{server.server_port}")
        yield bases


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    return [int(found) for path in Path(f"/proc/{pid}/task").glob("*/children") for found in path.read_text().split()]


def crawl(opened: runtime.Runtime, bases: list[str], images: int) -> None:
    """Crawl so many images and wait for the end."""
    urls = [f"{bases[number % len(bases)]}/{number}.jpg" for number in range(images)]
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("memory",), options.parse({"urls": urls}), len(urls)))
    client.start_crawl(job_id)
    job, _ = ended(opened, CrawlView, job_id)
    assert job.valid_images == images, job


def print_worker_table() -> None:
    """Print the peaks of a worker's processes after a crawl of ordinary files, and after one of the largest."""
    print("\nPeak MB of the processes of a worker after a crawl\n")
    print("| Files | main process | child | its decoder |\n| --- | --- | --- | --- |")
    body = jpeg(1, 120_000)
    for images, padding in ((2000, 0), (400, _MAX_BYTES - len(body) - 1000)):
        with (
            serving(body, padding) as bases,
            service(PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8") as opened,
            worker() as main,
        ):
            crawl(opened, bases, images)
            pool = children(main)
            decoders = [child for parent in pool for child in children(parent)]
            ids = ([main], pool, decoders)
            columns = [" ".join(f"{peak_bytes(pid) / _MB:.0f}" for pid in column) for column in ids]
            size = (len(body) + padding) / _MB
            print(f"| {images} of {size:.1f} MB, {PROCESSES} children | " + " | ".join(columns) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, nargs="*", default=[50_000_000, 25_000_000, 12_000_000])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the cases to measure")
    parser.add_argument("--operations", nargs="*", default=list(operations(1)), choices=list(operations(1)))
    parser.add_argument("--skip-worker", action="store_true", help="measure decoders only")
    args = parser.parse_args()
    for max_pixels in args.pixels:
        print_decoder_table(max_pixels, args.only, args.operations)
    if not args.skip_worker:
        print_worker_table()


if __name__ == "__main__":
    main()

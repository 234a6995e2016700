"""The decode pass of a crawl, in its sandboxed process, beside the same work in this process.

    python benchmarks/decode.py [--images 2000] [--bytes 114000] [--runs 5] [--write]

Each contender has all images in memory, and one core: the decode process is awaited by this one, which sends it the
next images meanwhile. `the same work, no process` is the floor: header, decode, hashes, metrics and SHA-256 by the same
code, without socket, sandbox and answers. Below it are parts of that work, and what others do in its place.
"""

import asyncio
import hashlib
import io
import os
from collections.abc import Callable
from contextlib import aclosing

import frame
import photographs
from frame import Run
from PIL import Image

from pixcrawler_worker.inspection import preloaded  # noqa: F401 - what the decode process has, too
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits

#: Images that are sent to the decode process before it has answered: as in a crawl.
_CONCURRENCY = 32
_FLOOR = "the same work, no process"


def decode_process(bodies: list[bytes], *, measured: bool) -> Run:
    """Have all images decoded by a decode process that has started."""

    async def run() -> Run:
        async with aclosing(Decoder(Limits())) as decoder:
            await decoder.inspect(bodies[0])
            waiting = iter(bodies)

            async def next_ones() -> None:
                for body in waiting:
                    await (decoder.measure(body) if measured else decoder.inspect(body))

            with frame.measured(os.getpid()) as usage:
                await asyncio.gather(*(next_ones() for _ in range(_CONCURRENCY)))
        return usage.run(len(bodies))

    return asyncio.run(run())


def in_this_process(bodies: list[bytes], work: Callable[[bytes], object]) -> Run:
    """Do some work for all images."""
    work(bodies[0])
    with frame.measured(os.getpid()) as usage:
        for body in bodies:
            work(body)
    return usage.run(len(bodies))


def scaled(body: bytes) -> None:
    """Decode at the scale that hashes are taken from, and nothing else."""
    with Image.open(io.BytesIO(body), formats=["JPEG"]) as image:
        image.draft("RGB", (129, 129))
        image.load()


def whole(body: bytes) -> None:
    """Decode all of it, and take the digest: what a script does."""
    with Image.open(io.BytesIO(body)) as image:
        image.load()
    hashlib.sha256(body).digest()


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=114_000, help="approximate size of an image")
    args = parser.parse_args()
    limits = Limits()
    distinct = photographs.jpegs(args.bytes)
    bodies = [distinct[number % len(distinct)] for number in range(args.images)]
    runs = frame.alternate(
        {
            "decode process": lambda: decode_process(bodies, measured=True),
            _FLOOR: lambda: in_this_process(bodies, lambda body: measure_bytes(body, limits, strict=False)),
            "decode process, no metrics": lambda: decode_process(bodies, measured=False),
            "the same, no process": lambda: in_this_process(bodies, lambda body: inspect_bytes(body, limits)),
            "Pillow, scaled decode alone": lambda: in_this_process(bodies, scaled),
            "Pillow, full decode and SHA-256": lambda: in_this_process(bodies, whole),
        },
        args.runs,
    )
    shares = [
        (mine.cpu or 0) / (floor.cpu or 1) for mine, floor in zip(runs["decode process"], runs[_FLOOR], strict=True)
    ]
    frame.publish(
        frame.Topic("decoding", "images", _FLOOR, "Decoding and measuring JPEGs", ("pillow", "numpy", "simplejpeg")),
        runs,
        write=args.write,
        notes=[
            f"{args.images:,} images of about {args.bytes:,} bytes.",
            f"CPU of the decode process and its client, as a multiple of the floor: {frame.Spread.of(shares)}.",
        ],
    )


if __name__ == "__main__":
    main()

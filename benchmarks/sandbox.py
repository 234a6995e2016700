"""What the decode process's sandbox costs: images per second with all of its layers, as a ratio to none.

    python benchmarks/sandbox.py [--images 3000] [--bytes 120000] [--runs 5]

Both processes run in turn, with 32 images on the way, as in a crawl. Besides the time, the CPU time of a decode process
is measured, which other work on the machine disturbs less.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import aclosing
from pathlib import Path

from stage import jpeg

from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import PROGRAM

_WITHOUT = ("-P", "-c", "from pixcrawler_worker.inspection.__main__ import main; main(layers=[])")
_DISTINCT = 64
_AT_ONCE = 32
_TICKS = 100


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


async def measured(decoder: Decoder, bodies: list[bytes], images: int) -> tuple[float, float]:
    """Return the seconds and CPU seconds that a decoder takes for so many images."""
    await asyncio.gather(*(decoder.inspect(body) for body in bodies))
    assert decoder.pid
    waiting = iter(range(images))

    async def take_turns() -> None:
        for number in waiting:
            await decoder.inspect(bodies[number % len(bodies)])

    begun, spent = time.perf_counter(), cpu_seconds(decoder.pid)
    await asyncio.gather(*(take_turns() for _ in range(_AT_ONCE)))
    return time.perf_counter() - begun, cpu_seconds(decoder.pid) - spent


async def compare(images: int, size: int, runs: int) -> None:
    """Measure both in turn and print."""
    bodies = [jpeg(number, size) for number in range(_DISTINCT)]
    times, cpus = [], []
    for _ in range(runs):
        found = []
        for program in (_WITHOUT, PROGRAM):
            async with aclosing(Decoder(Limits(), program)) as decoder:
                found.append(await measured(decoder, bodies, images))
        (without, without_cpu), (sandboxed, sandboxed_cpu) = found
        times.append(without / sandboxed)
        cpus.append(without_cpu / sandboxed_cpu)
        print(
            f"without {images / without:6.0f} images/s {without_cpu / images * 1000:5.2f} ms CPU"
            f"   sandboxed {images / sandboxed:6.0f} images/s {sandboxed_cpu / images * 1000:5.2f} ms CPU"
            f"   ratios {times[-1]:.3f} {cpus[-1]:.3f}"
        )
    print(f"median ratios: {statistics.median(times):.3f} of images/s, {statistics.median(cpus):.3f} of CPU time")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--bytes", type=int, default=120_000, help="approximate size of an image")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    asyncio.run(compare(args.images, args.bytes, args.runs))


if __name__ == "__main__":
    main()

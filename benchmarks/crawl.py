"""The throughput of a crawl, as a ratio to a minimal loop that downloads, decodes, hashes and writes the images.

    python benchmarks/crawl.py [--images 2000] [--bytes 120000] [--runs 3]

The baseline has as many processes as the worker, each an aiohttp loop with Pillow's draft decode, SHA-256 and a file
per image: no database, no broker, no address guard, no sandboxed decoder, no perceptual hashes, no duplicates. Both use
the same web server on loopback, one after the other, several times, and the ratio of each pair is printed.
"""

import argparse
import asyncio
import hashlib
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web
from PIL import Image
from stage import PROCESSES, ended, jpeg, service, worker

from pixcrawler_worker import client, runtime
from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.job_views import CrawlView

CONCURRENCY = 32


def serve(images: int, size: int, ready: "multiprocessing.Queue[str]") -> None:
    """Serve the images on a free port of loopback until killed."""
    distinct = [jpeg(number, size) for number in range(min(images, 64))]

    async def answer(request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        # Different bytes after the end of the JPEG make distinct files of a few images, without encoding each.
        return web.Response(body=distinct[number % len(distinct)] + str(number).encode(), content_type="image/jpeg")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{number}.jpg", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        ready.put(f"http://127.0.0.1:{port}|{statistics.mean(map(len, distinct)):.0f}")
        await asyncio.Event().wait()

    asyncio.run(main())


def minimal_loop(urls: list[str], folder: Path) -> None:
    """Download, decode at a reduced scale, hash, and write."""

    async def main() -> None:
        downloads = asyncio.Semaphore(CONCURRENCY)
        async with aiohttp.ClientSession() as session:

            async def download(url: str) -> None:
                async with downloads, session.get(url) as response:
                    body = await response.read()
                with Image.open(io.BytesIO(body)) as image:
                    image.draft("L", (128, 128))
                    image.load()
                (folder / f"{hashlib.sha256(body).hexdigest()}.jpg").write_bytes(body)

            await asyncio.gather(*map(download, urls))

    asyncio.run(main())


def time_baseline(urls: list[str]) -> float:
    """Return the seconds that the minimal loops take together."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        loops = [
            multiprocessing.Process(target=minimal_loop, args=(urls[part::PROCESSES], Path(folder)))
            for part in range(PROCESSES)
        ]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        return time.perf_counter() - begun


def time_crawl(opened: runtime.Runtime, urls: list[str]) -> float:
    """Return the seconds from the start of the job to its end, by the clock of the database."""
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({"urls": urls}), len(urls)))
    client.start_crawl(job_id)
    job, seconds = ended(opened, CrawlView, job_id)
    assert job.valid_images == len(urls), job
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=120_000, help="approximate size of an image")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()

    ready: multiprocessing.Queue[str] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(args.images, args.bytes, ready), daemon=True)
    server.start()
    base, size = ready.get().split("|")
    urls = [f"{base}/{number}.jpg" for number in range(args.images)]
    print(f"{args.images} images of {size} bytes, {PROCESSES} processes, {os.cpu_count()} cores")
    ratios = []
    with service(PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8") as opened, worker():
        time_crawl(opened, urls[:100])  # warms up processes, connections and decoders
        for _ in range(args.runs):
            baseline, crawl = time_baseline(urls), time_crawl(opened, urls)
            ratios.append(baseline / crawl)
            print(
                f"baseline {args.images / baseline:7.0f} images/s   crawl {args.images / crawl:7.0f} images/s"
                f"   ratio {ratios[-1]:.2f}"
            )
    server.terminate()
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

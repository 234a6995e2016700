"""The throughput of a crawl beside other downloaders, and beside a bare loop that does the same to each image.

    python benchmarks/crawl.py [--images 2000] [--bytes 114000] [--runs 3] [--only NAME...] [--write]

The bare loop has as many processes as the worker, each with aiohttp, the worker's own decode with hashes and metrics in
the same process, and a file for each image that is renamed into its place: no database, no broker, no address guard,
no sandbox. The others have the settings that suit them, as many processes as the worker where they have any, and 64
downloads at a time. All take the same URLs of eight addresses from nginx on loopback. CPU is that of all processes,
PostgreSQL and Redis included, and without nginx. Needs nginx, and `make bench-peers` for the others.
"""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import frame
import photographs
from frame import Run
from stage import PROCESSES, ended, families, service, worker

from pixcrawler_worker import client, runtime
from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.inspection.inspector import measure_bytes
from pixcrawler_worker.inspection.limits import Limits

_CONCURRENCY, _HOSTS = 64, 8

_IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], output_format="files", processes_count=int(sys.argv[3]),
        thread_count=64, number_sample_per_shard=500, resize_mode="no", skip_reencode=True, retries=0,
        disable_all_reencoding=sys.argv[4] == "bytes", enable_wandb=False, distributor="multiprocessing")
"""
_SCRAPY = """
import sys, scrapy
from scrapy.crawler import CrawlerProcess
class Images(scrapy.Spider):
    name = "images"
    async def start(self):
        yield scrapy.Request("data:,", self.parse)
    def parse(self, response):
        yield {"file_urls": open(sys.argv[1]).read().split()}
process = CrawlerProcess({"ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1}, "FILES_STORE": sys.argv[2],
    "CONCURRENT_REQUESTS": 64, "CONCURRENT_REQUESTS_PER_DOMAIN": 64, "DOWNLOAD_DELAY": 0, "LOG_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False, "ROBOTSTXT_OBEY": False})
process.crawl(Images)
process.start()
"""
_ICRAWLER = """
import logging, sys
from icrawler.builtin import UrlListCrawler
crawler = UrlListCrawler(downloader_threads=64, storage={"root_dir": sys.argv[2]}, log_level=logging.CRITICAL)
crawler.crawl(sys.argv[1])
"""
_DAFT = """
import sys, daft
urls = open(sys.argv[1]).read().split()
bodies = daft.from_pydict({"url": urls}).with_column("body", daft.col("url").download(max_connections=64))
if sys.argv[3] == "decode":
    bodies = bodies.with_column("body", daft.col("body").decode_image())
print(len(bodies.collect()))
"""


def loop(urls: list[str], folder: Path) -> None:
    """Download, decode, hash, measure and write."""
    limits = Limits()

    async def main() -> None:
        downloads = asyncio.Semaphore(_CONCURRENCY)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def download(url: str) -> None:
                async with downloads, session.get(url) as response:
                    body = await response.read()
                facts, _ = measure_bytes(body, limits, strict=True)
                path = folder / f"{facts.sha256.hex()}.jpg"
                path.with_suffix(".part").write_bytes(body)
                path.with_suffix(".part").rename(path)

            await asyncio.gather(*map(download, urls))

    asyncio.run(main())


def bare_loop(urls: list[str]) -> Run:
    """Run the bare loops."""
    with tempfile.TemporaryDirectory() as folder, frame.own_cpu() as usage:
        loops = [
            multiprocessing.Process(target=loop, args=(urls[part::PROCESSES], Path(folder)))
            for part in range(PROCESSES)
        ]
        for one in loops:
            one.start()
        for one in loops:
            one.join()
    return usage.run(len(urls))


def time_crawl(opened: runtime.Runtime, urls: list[str]) -> float:
    """Return the seconds from the start of the job to its end, by the clock of the database."""
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({"urls": urls}), len(urls)))
    client.start_crawl(job_id)
    job, seconds = ended(opened, CrawlView, job_id)
    assert job.valid_images == len(urls), job
    return seconds


def crawl(opened: runtime.Runtime, roots: list[int], urls: list[str]) -> Run:
    """Run a job."""
    with frame.measured(*roots) as usage:
        seconds = time_crawl(opened, urls)
    return Run(len(urls), seconds, usage.cpu, usage.peak)


def program(environment: str, script: str, urls: list[str], *words: str) -> Run:
    """Run the script of a peer."""
    with tempfile.TemporaryDirectory() as folder:
        listed, source, out = Path(folder) / "urls.txt", Path(folder) / "peer.py", Path(folder) / "out"
        listed.write_text("\n".join(urls))
        source.write_text(script)
        out.mkdir()
        run = frame.run_command([frame.peer(environment), source, listed, out, *words], len(urls))
        if "daft" in script:
            return run
        stored = sum(path.is_file() and path.suffix == ".jpg" for path in out.rglob("*"))
        assert stored
        if stored < len(urls):
            print(f"{stored} of {len(urls)} images were stored: these are counted")
        return replace(run, count=stored)


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=114_000, help="approximate size of an image")
    parser.add_argument("--only", nargs="+", help="contenders to run besides the worker, by parts of their names")
    parser.add_argument("--name", default="crawl", help="of the section of the page")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = photographs.write(Path(folder), args.images, args.bytes)
        with (
            photographs.served(Path(folder), hosts=_HOSTS) as bases,
            service(PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8") as opened,
            worker() as pid,
        ):
            urls = [f"{bases[number % len(bases)]}/{name}" for number, name in enumerate(names)]
            roots = [pid, *families(Path(opened.settings.data_dir))]
            time_crawl(opened, urls[:100])  # warms up processes, connections and decoders
            contenders: dict[str, Callable[[], Run]] = {
                "worker": partial(crawl, opened, roots, urls),
                "bare loop, the same per image": partial(bare_loop, urls),
                "img2dataset, decoding": partial(program, "img2dataset", _IMG2DATASET, urls, str(PROCESSES), "decode"),
                "img2dataset, bytes": partial(program, "img2dataset", _IMG2DATASET, urls, str(PROCESSES), "bytes"),
                "scrapy, bytes": partial(program, "fetching", _SCRAPY, urls),
                "icrawler, bytes": partial(program, "fetching", _ICRAWLER, urls),
                "Daft, decoding, no files": partial(program, "fetching", _DAFT, urls, "decode"),
                "Daft, bytes, no files": partial(program, "fetching", _DAFT, urls, "bytes"),
            }
            chosen = {
                name: run
                for name, run in contenders.items()
                if name == "worker" or not args.only or any(part in name for part in args.only)
            }
            runs = frame.alternate(chosen, args.runs)
    size = f"{args.bytes / 1000:.0f} kB"
    frame.publish(
        frame.Topic(args.name, "images", "worker", title=f"Crawl of JPEGs of {size}", versions=("aiohttp",)),
        runs,
        write=args.write,
    )


if __name__ == "__main__":
    main()

"""From URLs to a dataset: crawl, validation `standard` and zip, beside a chain of the usual programs on the same files.

    python benchmarks/pipeline.py [--images 10000] [--bytes 114000] [--runs 3] [--write]

The chain is img2dataset, which decodes the images and keeps their bytes, cleanvision, imagededup's PHash, and `zip -0`,
each with a process for each core and as many threads as a worker has downloads. nginx serves the images to both. The
steps of a worker are jobs, one after the other, whose times are those of the database: what is between them is left
out, and so is what the chain takes to start Python and import its libraries, but for img2dataset, which starts
processes of its own. Needs nginx, zip and `make bench-peers`.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import frame
import photographs
from frame import Run
from stage import PROCESSES, ended, families, service, worker
from validation import time_peers, time_validation

from pixcrawler_worker import client
from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import CrawlView, ExportView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.runtime import Runtime

#: Downloads at a time in each process of img2dataset: as in a worker.
_THREADS = 32
_CHAIN = "img2dataset, cleanvision, imagededup, zip"
_IMG2DATASET = """
import json, sys, time
from img2dataset import download
begun = time.perf_counter()
download(**json.loads(sys.argv[1]))
print("SECONDS", time.perf_counter() - begun)
"""


class Steps:
    """Seconds of each step, by contender, in the order of the rounds."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, list[float]]] = {}

    def add(self, contender: str, seconds: dict[str, float]) -> float:
        """Add the steps of a run; return their sum."""
        of = self.seconds.setdefault(contender, {})
        for step, taken in seconds.items():
            of.setdefault(step, []).append(taken)
        return sum(seconds.values())

    def line(self, contender: str, count: int) -> str:
        """Return the images per second of each step."""
        rates = {step: frame.Spread.of(count / one for one in taken) for step, taken in self.seconds[contender].items()}
        return f"{contender}, images per second: {', '.join(f'{step} {rate}' for step, rate in rates.items())}."


def service_pipeline(opened: Runtime, roots: Sequence[int], urls: Sequence[str], steps: Steps) -> Run:
    """Crawl, validate and export as three jobs."""
    with frame.measured(*roots) as usage:
        given = CrawlArguments(("bench",), options.parse({"urls": list(urls)}), len(urls))
        crawl_id = new_jobs.create_crawl(opened, given)
        client.start_crawl(crawl_id)
        crawl, crawling = ended(opened, CrawlView, crawl_id)
        assert crawl.valid_images == len(urls), crawl
        validating, validated = time_validation(opened, crawl_id, "standard")
        assert validated == len(urls)
        export_id = transact(
            opened.sessions,
            lambda session: job_rows.create_export_job(
                session, crawl_job_id=crawl_id, name="bench", format_="zip", options={}
            ),
        )
        assert export_id is not None
        client.start_export(export_id)
        _, exporting = ended(opened, ExportView, export_id)
    seconds = steps.add("worker", {"crawl": crawling, "validation": validating, "export": exporting})
    return Run(len(urls), seconds, usage.cpu, usage.peak)


def chain(urls: Sequence[str], steps: Steps) -> Run:
    """Run the four programs, one after the other."""
    downloader, cleaner = frame.peer("img2dataset"), frame.peer("cleaning")
    with tempfile.TemporaryDirectory() as folder:
        listed, images = Path(folder) / "urls.txt", Path(folder) / "images"
        listed.write_text("\n".join(urls))
        arguments = {
            "url_list": str(listed),
            "input_format": "txt",
            "output_folder": str(images),
            "output_format": "files",
            "processes_count": PROCESSES,
            "thread_count": _THREADS,
            "number_sample_per_shard": max(100, len(urls) // (4 * PROCESSES)),
            # Decodes them, which is the least that a dataset needs, and keeps their bytes.
            "resize_mode": "no",
            "skip_reencode": True,
            "enable_wandb": False,
        }
        said = subprocess.run(
            [downloader, "-c", _IMG2DATASET, json.dumps(arguments)], capture_output=True, text=True, check=True
        ).stdout
        (line,) = [line for line in said.splitlines() if line.startswith("SECONDS ")]
        seconds = {"img2dataset": float(line.split()[1])}
        # One folder of images, without img2dataset's notes: imagededup reads a folder, and no folders in it.
        flat = Path(folder) / "flat"
        flat.mkdir()
        paths = [path.rename(flat / path.name) for path in sorted(images.rglob("*.jpg"))]
        assert len(paths) == len(urls), f"img2dataset has {len(paths)} of {len(urls)}"
        seconds |= time_peers(str(cleaner), paths)
        begun = time.perf_counter()
        subprocess.run(["zip", "-0", "-q", "-r", f"{folder}/out.zip", flat.name], cwd=folder, check=True)
        seconds["zip"] = time.perf_counter() - begun
    return Run(len(urls), steps.add(_CHAIN, seconds))


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=114_000, help="approximate size of an image")
    args = parser.parse_args()
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        names = photographs.write(Path(folder), args.images, args.bytes)
        with (
            photographs.served(Path(folder)) as (base, *_),
            service(PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8") as opened,
            worker() as pid,
        ):
            urls = [f"{base}/{name}" for name in names]
            roots = [pid, *families(opened.settings.data_dir)]
            service_pipeline(opened, roots, urls[:200], Steps())  # warms up processes, connections and decoders
            runs = frame.alternate(
                {
                    "worker": lambda: service_pipeline(opened, roots, urls, steps),
                    _CHAIN: lambda: chain(urls, steps),
                },
                args.runs,
            )
    notes = [f"{args.images:,} images of about {args.bytes:,} bytes; CPU and memory of worker, PostgreSQL and Redis."]
    notes += [steps.line(name, args.images) for name in runs]
    if _CHAIN in runs:
        notes.append(f"The worker's rate is {frame.ratios(runs, 'worker', _CHAIN)} times that of the chain.")
    topic = frame.Topic("pipeline", "images", "worker", "From URLs to a zip of checked images")
    frame.publish(topic, runs, write=args.write, notes=notes)


if __name__ == "__main__":
    main()

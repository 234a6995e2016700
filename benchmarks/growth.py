"""The cost of an image in small and in large jobs: recording it, validating it, exporting it.

    python benchmarks/growth.py [--sizes 10000 100000 1000000] [--bytes 2000] [--write]

Each job has that many small files, which differ in their bytes. Rows are recorded as chunks of a crawl do it, 100 at a
time, with the outcome of each candidate; what is shown is the cost of the last 10,000 of the job. Then a worker
validates the job at the level `standard`, from what the crawl has measured, with a search for near duplicates among
random hashes, and exports it as a zip. CPU is that of all processes, PostgreSQL and Redis included.
"""

import functools
import hashlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import frame
from export import export
from frame import Run, Topic
from sqlalchemy import text
from stage import families, jpeg, service, worker
from validation import time_validation

from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db import candidates, images
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import storage_keys
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.inspection.inspector import measure_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.runtime import Runtime

_BATCH, _LAST, _DISTINCT = 100, 10_000, 64
#: How much more an image may cost in a large job.
_MOST = 1.2


def made(folder: Path, count: int, size: int) -> Iterator[NewImage]:
    """Write the files of a job; yield their rows."""
    noise = random.Random(count)
    bodies = [jpeg(number, size) for number in range(_DISTINCT)]
    measured = [measure_bytes(body, Limits(), strict=False) for body in bodies]
    for number in range(count):
        # Different bytes after the end of the JPEG make distinct files of a few images.
        body = bodies[number % _DISTINCT] + str(number).encode()
        facts, metrics = measured[number % _DISTINCT]
        facts = replace(
            facts,
            sha256=hashlib.sha256(body).digest(),
            file_size=len(body),
            phash=noise.getrandbits(64),
            dhash=noise.getrandbits(64),
        )
        path = folder / storage_keys.image_filename(facts)
        path.write_bytes(body)
        url = f"https://images.example.org/photos/{number}.jpg"
        yield NewImage(
            url=url,
            url_hash=storage_keys.url_hash(url),
            filename=path.name,
            storage_url=path.as_uri(),
            facts=facts,
            label="cat",
            query="cat",
            source="urls",
            credit=Credit(license="cc-by-4.0", author="an author"),
            metrics=metrics,
        )


def record(session: Session, job_id: int, batch: Sequence[NewImage]) -> None:
    """Record images as the chunk that has found them does."""
    hashes = [image.url_hash for image in batch]
    assert not candidates.decided(session, job_id, hashes)
    candidates.record(session, job_id, [Outcome(url_hash=one, downloaded=True) for one in hashes])
    assert len(images.insert_each(session, job_id, batch).positions) == len(batch)


def crawl(opened: Runtime, roots: list[int], count: int, size: int) -> tuple[int, Run]:
    """Make a job with so many images; return its id, and what the last of them cost."""
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({}), count))
    prefix = storage_keys.crawl_job_prefix(job_id)
    folder = Path(str(opened.settings.storage()).removeprefix("file://")) / prefix / "cat"
    folder.mkdir(parents=True)
    rows = made(folder, count, size)

    def add(number: int) -> Run:
        seconds = used = 0.0
        for _ in range(0, number, _BATCH):
            batch = list(itertools.islice(rows, _BATCH))
            begun, before = time.perf_counter(), time.process_time()
            transact(opened.sessions, functools.partial(record, job_id=job_id, batch=batch))
            seconds += time.perf_counter() - begun
            used += time.process_time() - before
        return Run(number, seconds, used)

    add(count - _LAST)
    with frame.measured(*roots) as usage:
        last = add(_LAST)
    with opened.sessions.begin() as session:
        session.execute(
            text("UPDATE crawl_jobs SET status = 'completed', valid_images = :n, total_images = :n WHERE id = :id"),
            {"n": count, "id": job_id},
        )
    return job_id, replace(last, cpu=usage.cpu + (last.cpu or 0))


def validate(opened: Runtime, roots: list[int], job_id: int, count: int) -> Run:
    """Validate a job."""
    with frame.measured(*roots) as usage:
        seconds, validated = time_validation(opened, job_id, "standard")
    assert validated == count
    return Run(count, seconds, usage.cpu, usage.peak)


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bytes", type=int, default=2_000, help="approximate size of an image")
    args = parser.parse_args()
    runs: dict[str, list[Run]] = {}
    notes: list[str] = []
    with service() as opened, worker() as pid:
        servers = families(Path(opened.settings.data_dir))
        warm, _ = crawl(opened, servers, _LAST, args.bytes)
        validate(opened, servers, warm, _LAST)
        export(opened, warm, _LAST, servers, "zip")
        for count in sorted(args.sizes):
            job_id, recorded = crawl(opened, servers, count, args.bytes)
            of = {
                "recorded": recorded,
                "validated": validate(opened, [pid, *servers], job_id, count),
                "exported": export(opened, job_id, count, [pid, *servers], "zip"),
            }
            for step, run in of.items():
                runs[f"{step}, {count:,} images"] = [run]
                print(
                    f"{step}, {count:,} images: {run.rate:.0f}/s, {1e6 * (run.cpu or 0) / run.count:.0f} us", flush=True
                )
        least, most = (f"{count:,} images" for count in (min(args.sizes), max(args.sizes)))
        for step in ("recorded", "validated", "exported"):
            small, large = runs[f"{step}, {least}"][0], runs[f"{step}, {most}"][0]
            ratio = (large.cpu or 0) / large.count / ((small.cpu or 1) / small.count)
            word = "at most" if ratio <= _MOST else "more than"
            notes.append(f"CPU for an image that is {step}, with {most} beside {least}: {ratio:.2f}, {word} {_MOST}.")
    topic = Topic("growth", "images", f"recorded, {least}", "Cost of an image by the size of the job")
    frame.publish(topic, runs, write=args.write, notes=notes)


if __name__ == "__main__":
    main()

"""The throughput of validations, as a ratio to a minimal loop, and the speed of the search for near duplicates.

    python benchmarks/validation.py [--images 3000] [--bytes 120000] [--runs 3] [--rows 200000] [--hashes 1000000]
        [--peers PYTHON]

The baseline of `standard` has as many processes as the worker, each a loop that reads, hashes, decodes and measures the
files with the same code: no database, no broker, no sandboxed decoder. `basic` is measured on rows alone. Near
duplicates are searched among random hashes with planted neighbors. With `--peers`, an interpreter that has cleanvision
and imagededup, those process the same files.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from sqlalchemy import text
from stage import PROCESSES, ended, jpeg, service, worker

from pixcrawler_worker import client
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.models import CrawlJob
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.inspection.inspector import measure_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import duplicates

_DISTINCT = 64
_PEERS = """
import sys, time, json
folder, seconds = sys.argv[1], {}
from cleanvision import Imagelab
begun = time.perf_counter()
lab = Imagelab(data_path=folder)
lab.find_issues({name: {} for name in ("dark", "light", "low_information", "blurry", "odd_size", "odd_aspect_ratio",
    "grayscale", "exact_duplicates", "near_duplicates")}, n_jobs=2, verbose=False)
seconds["cleanvision"] = time.perf_counter() - begun
from imagededup.methods import PHash
begun = time.perf_counter()
hasher = PHash(verbose=False)
encodings = hasher.encode_images(image_dir=folder, num_enc_workers=2)
hasher.find_duplicates(encoding_map=encodings, max_distance_threshold=3, num_dist_workers=2)
seconds["imagededup"] = time.perf_counter() - begun
print("SECONDS " + json.dumps(seconds))
"""


def measure_files(paths: list[Path]) -> None:
    """Read, hash, decode and measure files."""
    limits = Limits()
    for path in paths:
        measure_bytes(path.read_bytes(), limits, strict=False)


def time_baseline(paths: list[Path]) -> float:
    """Return the seconds that the minimal loops take together."""
    begun = time.perf_counter()
    loops = [multiprocessing.Process(target=measure_files, args=(paths[part::PROCESSES],)) for part in range(PROCESSES)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return time.perf_counter() - begun


def store(opened: Runtime, images: int, size: int) -> tuple[int, list[Path]]:
    """Write files and rows as a crawl does; return the id of the crawl job and the files."""
    job_id = make_crawl_job(opened)
    folder = Path(str(opened.settings.storage()).removeprefix("file://")) / "crawl_jobs" / str(job_id) / "cat"
    folder.mkdir(parents=True)
    distinct = [jpeg(number, size) for number in range(_DISTINCT)]
    paths = []
    for number in range(images):
        # Different bytes after the end of the JPEG make distinct files of a few images.
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(distinct[number % _DISTINCT] + str(number).encode())
    with opened.sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO images (crawl_job_id, original_url, filename, storage_url)"
                " SELECT :job, 'https://example.org/' || n, n || '.jpg', :folder || n || '.jpg'"
                " FROM generate_series(0, :last) AS n"
            ),
            {"job": job_id, "folder": f"{folder.as_uri()}/", "last": images - 1},
        )
    return job_id, paths


def store_rows(opened: Runtime, rows: int) -> int:
    """Write rows with recorded facts and no files; return the id of the crawl job."""
    job_id = make_crawl_job(opened)
    with opened.sessions.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(
            text(
                "WITH made AS (INSERT INTO images (crawl_job_id, original_url, filename, storage_url, width, height,"
                " file_size, format) SELECT :job, 'https://example.org/' || n, n || '.jpg', 'file:///x/' || n,"
                " 640, 480, 50000 + n % 1000, 'jpg' FROM generate_series(1, :rows) AS n RETURNING id)"
                " INSERT INTO pixcrawler.image_facts (image_id, crawl_job_id, sha256, url_hash, phash, dhash,"
                " hash_version, mode, frames, label, query, source) SELECT id, :job, sha256(int4send(id)),"
                " int4send(id), hashint8extended(id, 1), hashint8extended(id, 2), 1, 'RGB', 1, 'cat', 'cat', 'urls'"
                " FROM made"
            ),
            {"job": job_id, "rows": rows},
        )
    return job_id


def make_crawl_job(opened: Runtime) -> int:
    """Insert a completed crawl job; return its id."""
    with opened.sessions.begin() as session:
        job_id = job_rows.create_crawl_job(session, name="bench", keywords=["cat"], max_images=10**7, project_id=None)
        assert job_id is not None
        session.get_one(CrawlJob, job_id).status = "completed"
    return job_id


def time_validation(opened: Runtime, crawl_job_id: int, level: str) -> tuple[float, int]:
    """Return the duration of a validation in seconds, by the clock of the database, and the number of its images."""
    validation_id = transact(
        opened.sessions,
        lambda session: job_rows.create_validation_job(
            session, crawl_job_id=crawl_job_id, name=level, rules={"level": level, "mode": "report_only"}
        ),
    )
    assert validation_id is not None
    client.start_validation(validation_id)
    job, seconds = ended(opened, ValidationView, validation_id)
    return seconds, job.total_images


def search(count: int) -> str:
    """Find planted neighbors among random hashes; return a line with time and memory."""
    chance = np.random.default_rng(1)
    phash = chance.integers(0, 2**64, count, dtype=np.uint64)
    dhash = chance.integers(0, 2**64, count, dtype=np.uint64)
    planted = count // 50
    for at in range(planted):
        flips = chance.choice(64, at % 4, replace=False)
        phash[count - planted + at] = phash[at] ^ np.uint64(sum(1 << int(bit) for bit in flips))
        dhash[count - planted + at] = dhash[at]
    begun = time.process_time()
    order = np.arange(count)
    found = duplicates.near(phash, dhash, order, max_distance=3, confirm_distance=8)
    seconds = time.process_time() - begun
    expected = {count - planted + at: at for at in range(planted)}
    missed = sum(found.get(at) != keeper for at, keeper in expected.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{count:,} hashes: {seconds:.2f} s of CPU, {peak:.0f} MB in all, {missed} of {planted:,} planted missed"


def time_peers(python: str, paths: list[Path]) -> dict[str, float]:
    """Return the seconds that each peer takes for the same files."""
    script = subprocess.run(
        [python, "-c", _PEERS, str(paths[0].parent)], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in script.splitlines() if line.startswith("SECONDS ")]
    seconds: dict[str, float] = json.loads(line.removeprefix("SECONDS "))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--bytes", type=int, default=120_000, help="approximate size of an image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000, help="rows for basic")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--peers", help="a Python with cleanvision and imagededup")
    args = parser.parse_args()

    # First, and in a separate process: what is read is the peak memory of a process.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(search, (args.hashes,)))
    ratios = []
    with service() as opened:
        job_id, paths = store(opened, args.images, args.bytes)
        size = statistics.mean(path.stat().st_size for path in paths)
        print(f"{args.images} images of {size:.0f} bytes, {PROCESSES} processes, {os.cpu_count()} cores")
        rows_id = store_rows(opened, args.rows)
        with worker():
            time_validation(opened, job_id, "standard")  # warms up processes, connections and decoders
            for _ in range(args.runs):
                baseline, (seconds, _) = time_baseline(paths), time_validation(opened, job_id, "standard")
                ratios.append(baseline / seconds)
                print(
                    f"baseline {args.images / baseline:7.0f} images/s   standard {args.images / seconds:7.0f} images/s"
                    f"   ratio {ratios[-1]:.2f}"
                )
            for _ in range(args.runs):
                seconds, count = time_validation(opened, rows_id, "basic")
                print(f"basic {count / seconds:,.0f} images/s over {count:,} rows")
        if args.peers:
            for peer, seconds in time_peers(args.peers, paths).items():
                print(f"{peer} {args.images / seconds:7.0f} images/s")
    print(f"median ratio of standard {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

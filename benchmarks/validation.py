"""How close validations come to a bare loop over the same files, and how fast near duplicates are found.

    python benchmarks/validation.py [--images 3000] [--bytes 120000] [--runs 3] [--rows 200000] [--hashes 1000000]
        [--peers PYTHON]

The floor of `standard` is as many processes as the worker has, each a loop that reads a file, hashes, decodes and
measures it with the same code, and does nothing else: no database, no broker, no guarded process. `basic` is measured
on rows alone. Near duplicates are searched among random hashes with planted neighbors. With `--peers`, an interpreter
that has cleanvision and imagededup, those look at the same files.
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
from stage import PROCESSES, ended, picture, service, worker

from pixcrawler_worker import client
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.models import CrawlJob
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.opening import measure_bytes
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import duplicates

_DIFFERENT = 64
_PEERS = """
import sys, time, json
folder, told = sys.argv[1], {}
from cleanvision import Imagelab
begun = time.perf_counter()
lab = Imagelab(data_path=folder)
lab.find_issues({name: {} for name in ("dark", "light", "low_information", "blurry", "odd_size", "odd_aspect_ratio",
    "grayscale", "exact_duplicates", "near_duplicates")}, n_jobs=2, verbose=False)
told["cleanvision"] = time.perf_counter() - begun
from imagededup.methods import PHash
begun = time.perf_counter()
hasher = PHash(verbose=False)
encodings = hasher.encode_images(image_dir=folder, num_enc_workers=2)
hasher.find_duplicates(encoding_map=encodings, max_distance_threshold=3, num_dist_workers=2)
told["imagededup"] = time.perf_counter() - begun
print("TOLD " + json.dumps(told))
"""


def measure_files(paths: list[Path]) -> None:
    """Read, hash, decode and measure."""
    limits = Limits()
    for path in paths:
        measure_bytes(path.read_bytes(), limits, strict=False)


def time_floor(paths: list[Path]) -> float:
    """Seconds of the bare loops together."""
    begun = time.perf_counter()
    loops = [multiprocessing.Process(target=measure_files, args=(paths[part::PROCESSES],)) for part in range(PROCESSES)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return time.perf_counter() - begun


def store(opened: Runtime, images: int, size: int) -> tuple[int, list[Path]]:
    """Write files and rows as a crawl leaves them; return the crawl job's id and the files."""
    job_id = make_crawl_job(opened)
    folder = Path(str(opened.settings.storage()).removeprefix("file://")) / "crawl_jobs" / str(job_id) / "cat"
    folder.mkdir(parents=True)
    different = [picture(number, size) for number in range(_DIFFERENT)]
    paths = []
    for number in range(images):
        # The same few pictures, each time with other bytes behind the end of the JPEG.
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(different[number % _DIFFERENT] + str(number).encode())
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
    """Write rows with recorded facts and no files; return the crawl job's id."""
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
    """A crawl job that has ended."""
    with opened.sessions.begin() as session:
        job_id = job_rows.create_crawl_job(session, name="bench", keywords=["cat"], max_images=10**7, project_id=None)
        assert job_id is not None
        session.get_one(CrawlJob, job_id).status = "completed"
    return job_id


def time_validation(opened: Runtime, crawl_job_id: int, level: str) -> tuple[float, int]:
    """Seconds from the row's start to its end, as the database's clock has them, and how many images were judged."""
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
    """Find planted neighbors among random hashes; return what it took."""
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
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{count:,} hashes: {seconds:.2f} s of CPU, {most:.0f} MB in all, {missed} of {planted:,} planted missed"


def ask_peers(python: str, paths: list[Path]) -> dict[str, float]:
    """Seconds that each peer takes for the same files."""
    script = subprocess.run(
        [python, "-c", _PEERS, str(paths[0].parent)], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in script.splitlines() if line.startswith("TOLD ")]
    told: dict[str, float] = json.loads(line.removeprefix("TOLD "))
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--bytes", type=int, default=120_000, help="about as many per picture")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000, help="rows for basic")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--peers", help="a Python with cleanvision and imagededup")
    asked = parser.parse_args()

    # First, and in a process of its own: the most memory that a process ever had is what is read.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(search, (asked.hashes,)))
    ratios = []
    with service() as opened:
        job_id, paths = store(opened, asked.images, asked.bytes)
        size = statistics.mean(path.stat().st_size for path in paths)
        print(f"{asked.images} pictures of {size:.0f} bytes, {PROCESSES} processes, {os.cpu_count()} cores")
        rows_id = store_rows(opened, asked.rows)
        with worker():
            time_validation(opened, job_id, "standard")  # processes, connections and decoders are up
            for _ in range(asked.runs):
                floor, (seconds, _) = time_floor(paths), time_validation(opened, job_id, "standard")
                ratios.append(floor / seconds)
                print(
                    f"floor {asked.images / floor:7.0f} images/s   standard {asked.images / seconds:7.0f} images/s"
                    f"   ratio {ratios[-1]:.2f}"
                )
            for _ in range(asked.runs):
                seconds, judged = time_validation(opened, rows_id, "basic")
                print(f"basic {judged / seconds:,.0f} images/s over {judged:,} rows")
        if asked.peers:
            for peer, seconds in ask_peers(asked.peers, paths).items():
                print(f"{peer} {asked.images / seconds:7.0f} images/s")
    print(f"median ratio of standard {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

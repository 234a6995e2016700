"""The throughput of exports, as a ratio to `zip -0 -r` of the same files, and the peak memory of a worker.

    python benchmarks/export.py [--images 10000 100000] [--bytes 60000] [--runs 3]

Needs Info-ZIP's `zip`. Both read the same files from, and write to, the same disk, one after the other; the files are
in the page cache for both. zip writes one archive with one process; the worker has `stage.PROCESSES` processes. It also
verifies the checksum of every image, writes tables and checksums, and hashes the archive.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from stage import PROCESSES, ended, jpeg, service, worker
from validation import make_crawl_job

from pixcrawler_worker import client
from pixcrawler_worker.db import images, job_rows
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.runtime import Runtime

_DISTINCT, _BATCH = 64, 2_000


def store(opened: Runtime, count: int, size: int) -> tuple[int, Path]:
    """Write files and rows as a crawl does; return the id of the crawl job and the folder."""
    job_id = make_crawl_job(opened)
    folder = Path(str(opened.settings.storage()).removeprefix("file://")) / "crawl_jobs" / str(job_id) / "cat"
    folder.mkdir(parents=True)
    distinct = [jpeg(number, size) for number in range(_DISTINCT)]
    for first in range(0, count, _BATCH):
        found = []
        for number in range(first, min(first + _BATCH, count)):
            body = distinct[number % _DISTINCT] + str(number).encode()
            path = folder / f"{number}.jpg"
            path.write_bytes(body)
            found.append(_row(number, body, path))
        with opened.sessions.begin() as session:
            images.insert_new(session, job_id, found)
    return job_id, folder


def _row(number: int, body: bytes, path: Path) -> NewImage:
    facts = ImageFacts(
        sha256=hashlib.sha256(body).digest(),
        format="jpg",
        width=640,
        height=480,
        file_size=len(body),
        mode="RGB",
        frames=1,
        phash=number,
        dhash=number,
    )
    url = f"https://example.org/{number}"
    return NewImage(
        url=url,
        url_hash=url_hash(url),
        filename=path.name,
        storage_url=path.as_uri(),
        facts=facts,
        label="cat",
        query="cat",
        source="urls",
        credit=Credit(author="an author", license="cc-by-4.0", page_url=url),
    )


def time_zip(folder: Path) -> float:
    """Return the seconds that `zip -0 -r` takes."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as target:
        begun = time.perf_counter()
        subprocess.run(["zip", "-0", "-q", "-r", f"{target}/out.zip", folder.name], cwd=folder.parent, check=True)
        return time.perf_counter() - begun


def time_export(opened: Runtime, crawl_job_id: int) -> float:
    """Return the seconds from the start of the job to its end, by the clock of the database. The files are removed."""
    export_id = transact(
        opened.sessions,
        lambda session: job_rows.create_export_job(
            session, crawl_job_id=crawl_job_id, name="bench", format_="zip", options={}
        ),
    )
    assert export_id is not None
    client.start_export(export_id)
    _, seconds = ended(opened, ExportView, export_id)
    shutil.rmtree(Path(str(opened.settings.storage()).removeprefix("file://")) / "exports" / str(export_id))
    return seconds


def peak_megabytes(parent: int) -> float:
    """Return the peak memory of the largest process of a worker, in megabytes."""
    peaks = [0.0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if int(fields["PPid"]) == parent and "VmHWM" in fields:
            peaks.append(int(fields["VmHWM"].split()[0]) / 1024)
    return max(peaks)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--bytes", type=int, default=60_000, help="approximate size of an image")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    peaks = {}
    for count in args.images:
        with service() as opened:
            job_id, folder = store(opened, count, args.bytes)
            size = sum(path.stat().st_size for path in folder.iterdir())
            print(f"{count:,} images, {size / 1e9:.2f} GB, {PROCESSES} processes, {os.cpu_count()} cores", flush=True)
            ratios = []
            with worker() as process:
                for _ in range(args.runs):
                    zipped, exported = time_zip(folder), time_export(opened, job_id)
                    ratios.append(zipped / exported)
                    print(
                        f"zip {size / zipped / 1e6:6.0f} MB/s   export {size / exported / 1e6:6.0f} MB/s   "
                        f"ratio {ratios[-1]:.2f}",
                        flush=True,
                    )
                peaks[count] = peak_megabytes(process)
            print(f"median ratio {statistics.median(ratios):.2f}, peak memory of a process {peaks[count]:.0f} MB")
    if len(peaks) > 1:
        print(f"memory differs by {max(peaks.values()) - min(peaks.values()):.0f} MB")


if __name__ == "__main__":
    main()

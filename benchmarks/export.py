"""The throughput of exports, beside programs that write the same files, and of conversion to 512 pixels.

    python benchmarks/export.py [--images 5000] [--bytes 114000] [--runs 3] [--topic archives|conversion] [--write]

`archives`: a zip and webdataset shards, beside `zip -0 -r`, `tar -c`, and webdataset's TarWriter, which writes the same
samples with a JSON file each. All read the same files from, and write to, the same disk; the files are in the page
cache. The worker also verifies the checksum of every image, writes tables and checksums, and hashes the archive.

`conversion`: an export with `resize` to 512 pixels, beside img2dataset's resizer (OpenCV) and Pillow, with as many
processes, all to JPEG of quality 90. Needs Info-ZIP's zip, tar and `make bench-peers`.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import frame
import photographs
from frame import Run
from PIL import Image
from stage import PROCESSES, ended, service, worker
from validation import make_crawl_job

from pixcrawler_worker import client
from pixcrawler_worker.db import images, job_rows
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.runtime import Runtime

_BATCH = 2_000


def store(opened: Runtime, count: int, size: int) -> tuple[int, Path]:
    """Write files and rows as a crawl does; return the id of the crawl job and the folder."""
    job_id = make_crawl_job(opened)
    folder = Path(str(opened.settings.storage()).removeprefix("file://")) / "crawl_jobs" / str(job_id) / "cat"
    folder.mkdir(parents=True)
    distinct = photographs.jpegs(size)
    for first in range(0, count, _BATCH):
        found = []
        for number in range(first, min(first + _BATCH, count)):
            body = distinct[number % len(distinct)] + str(number).encode()
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


def export(opened: Runtime, crawl_job_id: int, count: int, roots: Sequence[int], format_: str, **given: object) -> Run:
    """Run an export, by the clock of the database; CPU is that of `roots`. The files are removed."""
    with frame.measured(*roots) as usage:
        export_id = transact(
            opened.sessions,
            lambda session: job_rows.create_export_job(
                session, crawl_job_id=crawl_job_id, name="bench", format_=format_, options=given
            ),
        )
        assert export_id is not None
        client.start_export(export_id)
        job, seconds = ended(opened, ExportView, export_id)
    assert job.exported_images == count, job
    shutil.rmtree(Path(str(opened.settings.storage()).removeprefix("file://")) / "exports" / str(export_id))
    return Run(count, seconds, usage.cpu, usage.peak)


def program(folder: Path, count: int, command: Sequence[str]) -> Run:
    """Run a program that archives a folder into `out`."""
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as target:
        return frame.run_command([*command, folder.name], count, cwd=folder.parent, OUT=target)


def tar_writer(folder: Path, count: int) -> Run:
    """Write the images and rows with webdataset."""
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as target:
        command = [str(frame.peer("fetching")), "-c", _TAR_WRITER, str(folder), json.dumps(_ROW)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OUT": target})
    seconds, cpu = map(float, said.stdout.split())  # without the imports
    return Run(count, seconds, cpu)


_TAR_WRITER = """
import json, os, sys, time
from webdataset import TarWriter
begun, used = time.perf_counter(), time.process_time()
folder, row = sys.argv[1], json.loads(sys.argv[2])
with TarWriter(os.path.join(os.environ["OUT"], "out.tar")) as shard:
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as file:
            body = file.read()
        shard.write({"__key__": name[:-4], "jpg": body, "cls": 0, "json": {"file_name": name, **row}})
print(time.perf_counter() - begun, time.process_time() - used)
"""
#: About what a row of an export has.
_ROW = {
    **dict.fromkeys(("source_url", "page_url", "license_url"), "https://example.org/1"),
    **dict.fromkeys(("label", "split", "phash", "mime", "title", "author", "license", "attribution"), "a text"),
}
_RESIZER = """
import io, sys
from multiprocessing import Pool
from pathlib import Path
from img2dataset.resizer import Resizer
resizer = Resizer(
    image_size=512, resize_mode="keep_ratio_largest", resize_only_if_bigger=True, encode_quality=90, encode_format="jpg"
)
target = Path(sys.argv[2])
def convert(path):
    converted, _, _, _, _, error = resizer(io.BytesIO(path.read_bytes()))
    assert error is None, error
    (target / path.name).write_bytes(converted)
with Pool(int(sys.argv[3])) as pool:
    for _ in pool.imap_unordered(convert, sorted(Path(sys.argv[1]).iterdir()), chunksize=16):
        pass
"""


def resizer(folder: Path, count: int) -> Run:
    """Convert with img2dataset's resizer."""
    with tempfile.TemporaryDirectory() as target:
        return frame.run_command(
            [frame.peer("img2dataset"), "-c", _RESIZER, folder, target, str(PROCESSES)],
            count,
            NO_ALBUMENTATIONS_UPDATE="1",
        )


def shrink(path: Path, target: Path) -> None:
    """Convert an image with Pillow, which decodes a JPEG at a smaller scale where it can."""
    with Image.open(path) as image:
        image.thumbnail((512, 512), Image.Resampling.LANCZOS)
        image.save(target / path.name, quality=90)


def pillow(folder: Path, count: int) -> Run:
    """Convert with Pillow."""
    with tempfile.TemporaryDirectory() as target, frame.own_cpu() as usage, multiprocessing.Pool(PROCESSES) as pool:
        work = [(path, Path(target)) for path in sorted(folder.iterdir())]
        pool.starmap(shrink, work, chunksize=16)
        pool.close()
        pool.join()
    return usage.run(count)


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--bytes", type=int, default=114_000, help="approximate size of an image")
    parser.add_argument("--topic", choices=("archives", "conversion"))
    args = parser.parse_args()
    with service() as opened, worker() as pid:
        job_id, folder = store(opened, args.images, args.bytes)
        note = f"{args.images:,} images of about {args.bytes:,} bytes, {PROCESSES} processes of the worker."
        if args.topic != "conversion":
            runs = frame.alternate(
                {
                    "export of a zip": lambda: export(opened, job_id, args.images, [pid], "zip"),
                    "export of webdataset": lambda: export(opened, job_id, args.images, [pid], "tar"),
                    "zip -0": lambda: program(folder, args.images, ["sh", "-c", 'zip -0 -q -r "$OUT/o.zip" "$0"']),
                    "tar": lambda: program(folder, args.images, ["sh", "-c", 'tar -cf "$OUT/out.tar" "$0"']),
                    "TarWriter of webdataset": lambda: tar_writer(folder, args.images),
                },
                args.runs,
            )
            topic = frame.Topic("export", "images", "export of webdataset", "Exports of unchanged images")
            frame.publish(topic, runs, write=args.write, notes=[note])
        if args.topic != "archives":
            resize = {"resize": {"mode": "fit", "size": 512}, "format": "jpg", "quality": 90}
            runs = frame.alternate(
                {
                    "export": lambda: export(opened, job_id, args.images, [pid], "tar", image=resize),
                    "resizer of img2dataset": lambda: resizer(folder, args.images),
                    "Pillow": lambda: pillow(folder, args.images),
                },
                args.runs,
            )
            topic = frame.Topic("conversion", "images", "export", "Conversion to 512 pixels", ("pillow",))
            frame.publish(topic, runs, write=args.write, notes=[note])


if __name__ == "__main__":
    main()

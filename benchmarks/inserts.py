"""Rows of images with their facts: inserted by the worker's own function, and by a plain COPY into `images` alone.

    python benchmarks/inserts.py [--images 20000] [--batches 100 1000] [--runs 5]

The floor writes only the documented table, which has one index besides its key: no facts, no unique indexes over URLs
and bytes, no look at what is there already. All commit once per batch, durably.
"""

import functools
import hashlib
from collections.abc import Callable

import frame
import psycopg
from frame import Run, Topic
from stage import service

from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db import images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.runtime import Runtime

_COPY = """
COPY images (crawl_job_id, original_url, filename, storage_url, width, height, file_size, format) FROM STDIN
"""


def make_image(number: int) -> NewImage:
    """Return an image that differs for every number."""
    sha256 = hashlib.sha256(str(number).encode()).digest()
    url = f"https://images.example.org/photos/2024/05/{number}.jpg"
    return NewImage(
        url=url,
        url_hash=hashlib.sha256(url.encode()).digest(),
        filename=f"{sha256.hex()}.jpg",
        storage_url=f"jobs/1/{sha256.hex()[:2]}/{sha256.hex()}.jpg",
        facts=ImageFacts(
            sha256=sha256,
            width=1024,
            height=768,
            file_size=114_000 + number % 1000,
            format="jpg",
            mode="RGB",
            frames=1,
            phash=int.from_bytes(sha256[:8]),
            dhash=int.from_bytes(sha256[8:16]),
        ),
        label="cat",
        query="cat",
        source="openverse",
        credit=Credit(page_url=url, title="A photograph", license="cc-by-4.0"),
    )


def new_job(opened: Runtime) -> int:
    """Insert a job that has no images; return its id."""
    return new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({}), 1_000_000))


def ours(opened: Runtime, made: list[NewImage], batch: int) -> Callable[[], Run]:
    """Return a contender: images with their facts."""

    def run() -> Run:
        job_id = new_job(opened)
        with frame.own_cpu() as usage:
            for first in range(0, len(made), batch):
                part = made[first : first + batch]
                inserted = transact(opened.sessions, functools.partial(images.insert_each, job_id=job_id, found=part))
                assert len(inserted.positions) == len(part)
        return usage.run(len(made))

    return run


def floor(opened: Runtime, made: list[NewImage], batch: int) -> Callable[[], Run]:
    """Return a contender: a COPY into `images` alone."""

    def run() -> Run:
        job_id = new_job(opened)
        with psycopg.connect(opened.settings.require_database()) as connection, frame.own_cpu() as usage:
            for first in range(0, len(made), batch):
                with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                    for image in made[first : first + batch]:
                        facts = image.facts
                        of_file = (facts.width, facts.height, facts.file_size, facts.format)
                        copy.write_row((job_id, image.url, image.filename, image.storage_url, *of_file))
                connection.commit()
        return usage.run(len(made))

    return run


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 1000])
    args = parser.parse_args()
    made = [make_image(number) for number in range(args.images)]
    with service() as opened:
        ours(opened, made[:1000], 100)()
        for batch in args.batches:
            base = "COPY into images"
            contenders = {base: floor(opened, made, batch), "images with facts": ours(opened, made, batch)}
            topic = Topic(f"inserts-{batch}", "images", base, f"Inserts, {batch} a batch", ["psycopg"])
            frame.publish(topic, frame.alternate(contenders, args.runs), write=args.write)


if __name__ == "__main__":
    main()

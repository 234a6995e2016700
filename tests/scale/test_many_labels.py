"""A list whose labels are ids: half as many labels as rows, through reading, planning, reports and exports."""

import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ledger
import pytest
from doubles import query
from export import exporting

from pixcrawler_worker.browse import content
from pixcrawler_worker.crawl import options, planner, report
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime

pytestmark = [pytest.mark.scale, pytest.mark.timeout(1800)]

ROWS, FEW, MANY = 100_000, 10, 50_000
#: Seconds of CPU of this process, by step.
Times = dict[str, float]

_IMAGES = """
WITH row AS (
    SELECT number, (SELECT nextval('images_id_seq') + number * 0) AS id, 'id ' || number % :labels AS label,
        sha256(number::text::bytea) AS digest,
        ('x' || left(md5(number::text), 16))::bit(64)::bigint AS hash
    FROM generate_series(1, :rows) AS number
), image AS (
    INSERT INTO images (id, crawl_job_id, original_url, filename, storage_url, width, height, file_size, format)
    SELECT id, :job, 'https://example.org/' || number, number || '.jpg', :file, 96, 72, 1000, 'jpg' FROM row
)
INSERT INTO pixcrawler.image_facts
    (image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source)
SELECT id, :job, digest, digest, hash, hash, 2, 'RGB', 1, label, label, 'urls' FROM row
"""


@contextmanager
def timed(times: Times, step: str) -> Iterator[None]:
    begun = time.process_time()
    yield
    times[step] = time.process_time() - begun


def test_labels_that_are_ids_take_little_more_than_others(runtime: Runtime, tmp_path: Path) -> None:
    few, many = (through_all(runtime, tmp_path, labels) for labels in (FEW, MANY))
    for step, seconds in few.items():
        print(f"{step}: {seconds:.1f} s, with {MANY:,} labels {many[step]:.1f} s of CPU", file=sys.__stderr__)
    assert {step: seconds for step, seconds in many.items() if seconds > 2 * few[step] + 2} == {}


def through_all(runtime: Runtime, tmp_path: Path, labels: int) -> Times:
    """Read, plan, report on, export and browse as many rows with so many labels."""
    times: Times = {}
    rows = "".join(f"https://example.org/{at},id {at % labels},{at}\n" for at in range(ROWS))
    job = exporting.crawl_of(runtime, [], status="pending", max_images=ROWS)
    ref = JobRef(CRAWL_JOBS, job)
    with timed(times, "read"):
        listed = StoredList(reading.read(io.BytesIO(f"url,label,n\n{rows}".encode()), "list"))
    with timed(times, "plan"), listed:
        with runtime.sessions.begin() as session:
            planner.record_options(runtime, session, job, options.parse({}), listed)
        submission.start(runtime, CRAWL, job, {})
    assert len(ledger.chunks_of(runtime.sessions, ref)) == ROWS / runtime.settings.chunk_size

    runtime.run(runtime.storage.put("image.jpg", exporting.image_bytes(1)))
    values = {"job": job, "rows": ROWS, "labels": labels, "file": runtime.storage.url("image.jpg")}
    ledger.execute(runtime.sessions, _IMAGES, **values)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'completed' WHERE id = :job", job=job)
    found = "SELECT count(DISTINCT label) FROM pixcrawler.image_facts WHERE crawl_job_id = :job"
    assert query(runtime, found, job=job) == [(labels,)]

    with timed(times, "report"):
        path = report.write_crawl_report(runtime, job, tmp_path / "report.html")
    assert path.stat().st_size < 5_000_000
    with timed(times, "export"):
        made = exporting.export(runtime, job, format_="csv")
    assert exporting.row(runtime, made).exported_images == ROWS
    with timed(times, "page"):
        page = content.to_json(content.read(runtime, job), None)
    assert len(json.loads(page)["labels"]) == labels
    return times

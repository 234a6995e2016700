"""Ids at the end of their sequences: what chunks and `pixcrawler doctor` say."""

from collections.abc import Iterator
from pathlib import Path

import all_kinds
import factories
import ledger
import pytest
from fakes.hosts import HostileServer, serving
from sqlalchemy import Engine

from pixcrawler_worker import health, settings
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import sizes
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.jobs import executor, submission

LAST = 2**31 - 1


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as running:
        yield running


@pytest.fixture
def at_the_end(sessions: Sessions) -> Iterator[None]:
    ledger.execute(sessions, f"SELECT setval('images_id_seq', {LAST - 1})")
    yield
    ledger.execute(sessions, "SELECT setval('images_id_seq', 1)")


def test_every_sequence_of_a_documented_table_is_looked_at(engine: Engine) -> None:
    columns = {one.column: one.limit for one in sizes.ids(engine)}
    documented = {"projects", "crawl_jobs", "images", "activity_logs", "validation_jobs", "export_jobs"}
    assert {f"{table}.id" for table in documented} <= columns.keys()
    assert {columns[f"{table}.id"] for table in documented} == {LAST}
    assert columns["chunks.id"] == 2**63 - 1


@pytest.mark.usefixtures("at_the_end")
def test_a_chunk_that_finds_no_id_left_fails_with_that_reason(
    database_url: str, sessions: Sessions, host: HostileServer, tmp_path: Path
) -> None:
    urls = [host.url(f"/good/{number}.jpg") for number in range(3)]
    job_id = factories.make_job(
        sessions, keywords={"keywords": ["cat"], "options": {"sources": ["urls"], "urls": urls}}
    )
    with all_kinds.runtime_on(database_url, tmp_path) as opened:
        for message in submission.start(opened, CRAWL, job_id):
            executor.run(opened, CRAWL, message.chunk_id)
    ref = CRAWL_JOBS.ref(job_id)
    (chunk,) = ledger.chunks_of(sessions, ref)
    assert chunk.state == "failed"
    assert chunk.error is not None
    assert chunk.error.startswith(
        'the ids of images are used up: nextval: reached maximum value of sequence "images_id_seq"'
    )
    assert ledger.crawl_job(sessions, ref).status == "failed"
    ledger.check(sessions, ref)


@pytest.mark.usefixtures("at_the_end")
def test_the_doctor_says_how_many_ids_are_left(engine: Engine, sessions: Sessions, database_url: str) -> None:
    def database() -> health.CheckResult:
        results = health.run_checks(settings.load(database_url=database_url))
        return next(result for result in results if result.name == "database")

    assert database() == health.CheckResult(
        "database", ok=False, detail="1 ids are left for images.id: see docs/operations.md"
    )
    assert sizes.ids(engine)[0].column == "images.id"
    ledger.execute(sessions, f"SELECT setval('images_id_seq', {LAST * 6 // 10})")
    assert database().detail.endswith(", images.id has used 60% of its ids")
    assert database().ok
    ledger.execute(sessions, "SELECT setval('images_id_seq', 1000)")
    assert "ids" not in database().detail

"""A crawl, a validation and an export, one after the other, by a runtime on the database as some role sees it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import factories
import ledger
from building import working
from fakes.hosts import HostileServer

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.runtime import Runtime


@contextlib.contextmanager
def runtime_on(database_url: str, folder: Path) -> Iterator[Runtime]:
    loaded = settings.load(
        database_url=database_url,
        data_dir=folder,
        storage_url=(folder / "storage").as_uri(),
        allowed_networks="127.0.0.0/8",
        sweep_seconds=0.2,
    )
    with contextlib.closing(runtime.connect(loaded)) as opened:
        yield opened


@dataclass(frozen=True)
class Result:
    """What is the same for all runs, whatever role they connect as: rows without ids and times."""

    crawl: tuple[Any, ...]
    validation: tuple[Any, ...]
    export: tuple[Any, ...]
    facts: list[tuple[Any, ...]]


def run(opened: Runtime, sessions: Sessions, host: HostileServer, *, seconds: float = 40) -> Result:
    """Run a job of each kind to its end. The rows are inserted with `sessions`, which may do everything."""
    urls = [host.url(path) for path in ("/good/1.jpg", "/good/2.jpg", "/good/3.jpg", "/html/4.jpg", "/good/1.jpg")]
    keywords = {"keywords": ["cat"], "options": {"sources": ["urls"], "urls": urls}}
    with working(opened):
        job_id = factories.make_job(sessions, keywords=keywords, max_images=10)
        crawl = _end(sessions, "crawl_jobs", job_id, seconds)
        ledger.execute(sessions, "INSERT INTO validation_jobs (crawl_job_id, name) VALUES (:id, 'check')", id=job_id)
        validation_id = ledger.scalar(sessions, "SELECT max(id) FROM validation_jobs")
        validation = _end(sessions, "validation_jobs", validation_id, seconds)
        ledger.execute(
            sessions,
            "INSERT INTO export_jobs (crawl_job_id, user_id, name) SELECT c.id, p.user_id, 'archive'"
            " FROM crawl_jobs c JOIN projects p ON p.id = c.project_id WHERE c.id = :id",
            id=job_id,
        )
        export_id = ledger.scalar(sessions, "SELECT max(id) FROM export_jobs")
        export = _end(sessions, "export_jobs", export_id, seconds)
    facts = """
        SELECT array_agg(ARRAY[encode(f.sha256, 'hex'), f.phash::text, i.width::text, f.label, f.source]
            ORDER BY f.sha256)
        FROM images i JOIN pixcrawler.image_facts f ON f.image_id = i.id WHERE i.crawl_job_id = :id
    """
    return Result(
        crawl,
        validation,
        export,
        [tuple(one) for one in ledger.scalar(sessions, facts, id=job_id)],
    )


_COLUMNS = {
    "crawl_jobs": "status, progress, total_images, downloaded_images, valid_images, completed_chunks, failed_chunks",
    "validation_jobs": "status, progress, total_images, validated_images, invalid_images, error_message",
    "export_jobs": "status, progress, total_images, exported_images, error_message",
}


def _end(sessions: Sessions, table: str, job_id: int, seconds: float) -> tuple[Any, ...]:
    deadline = time.monotonic() + seconds
    while True:
        row = ledger.row(sessions, f"SELECT {_COLUMNS[table]} FROM {table} WHERE id = :id", id=job_id)
        if row[0] not in {"pending", "running"}:
            return tuple(row)
        assert time.monotonic() < deadline, f"{table} {job_id} is {row[0]} after {seconds:.0f} s"
        time.sleep(0.02)

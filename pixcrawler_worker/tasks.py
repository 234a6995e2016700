"""Every message the worker understands. A task calls one function and sends what it returns."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import structlog

from pixcrawler_worker import maintenance, runtime
from pixcrawler_worker.celery import announce, app
from pixcrawler_worker.crawl import chunk, planner
from pixcrawler_worker.crawl.planner import UnknownJobError
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.domain.lifecycle import JobKind
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.export import part
from pixcrawler_worker.export import planner as exporting
from pixcrawler_worker.validate import chunk as judge
from pixcrawler_worker.validate import planner as judging

log = structlog.get_logger()

#: The largest ids of the documented tables (PostgreSQL's integer) and of chunks (its bigint).
_LARGEST_JOB_ID, _LARGEST_CHUNK_ID = 2**31 - 1, 2**63 - 1


@app.task(name=Task.CRAWL_START.value)
def start_crawl(crawl_job_id: int, options: dict[str, Any] | None = None) -> None:
    """Plan a pending crawl job; on one that was started do nothing."""
    with _unknown_dropped():
        _send(planner.start(runtime.current(), _row(crawl_job_id), options or {}))


@app.task(name=Task.CRAWL_CHUNK.value)
def run_crawl_chunk(chunk_id: int) -> None:
    """Run one chunk of a crawl job."""
    with _unknown_dropped():
        _send(chunk.run(runtime.current(), _row(chunk_id, largest=_LARGEST_CHUNK_ID)))


@app.task(name=Task.CRAWL_CANCEL.value)
def cancel_crawl(crawl_job_id: int) -> None:
    """Cancel a crawl job."""
    with _unknown_dropped():
        planner.cancel(runtime.current(), _row(crawl_job_id))


@app.task(name=Task.CRAWL_RETRY.value)
def retry_crawl(crawl_job_id: int) -> None:
    """Run the failed and cancelled chunks of a crawl job again."""
    with _unknown_dropped():
        _send(planner.retry(runtime.current(), _row(crawl_job_id)))


@app.task(name=Task.VALIDATION_START.value)
def start_validation(validation_job_id: int) -> None:
    """Plan a pending validation job; on one that was started do nothing."""
    with _unknown_dropped():
        _send(judging.start(runtime.current(), _row(validation_job_id)), JobKind.VALIDATION)


@app.task(name=Task.VALIDATION_CHUNK.value)
def run_validation_chunk(chunk_id: int) -> None:
    """Run one chunk of a validation job."""
    with _unknown_dropped():
        _send(judge.run(runtime.current(), _row(chunk_id, largest=_LARGEST_CHUNK_ID)), JobKind.VALIDATION)


@app.task(name=Task.EXPORT_START.value)
def start_export(export_job_id: int) -> None:
    """Plan a pending export job; on one that was started do nothing."""
    with _unknown_dropped():
        _send(exporting.start(runtime.current(), _row(export_job_id)), JobKind.EXPORT)


@app.task(name=Task.EXPORT_PART.value)
def run_export_part(chunk_id: int) -> None:
    """Run one chunk of an export job."""
    with _unknown_dropped():
        _send(part.run(runtime.current(), _row(chunk_id, largest=_LARGEST_CHUNK_ID)), JobKind.EXPORT)


@app.task(name=Task.SWEEP.value)
def sweep() -> None:
    """Sweep once, and tidy the storage of jobs that are over."""
    announce(maintenance.sweep(runtime.current()).wakes)
    maintenance.remove_orphans(runtime.current())
    maintenance.tidy_exports(runtime.current())


@contextlib.contextmanager
def _unknown_dropped() -> Iterator[None]:
    """Log and drop a message about a row that is not there: trying again would not bring it back."""
    try:
        yield
    except (UnknownJobError, judging.UnknownJobError, exporting.UnknownJobError) as error:
        log.warning("message dropped", reason=str(error))


def _row(given: object, *, largest: int = _LARGEST_JOB_ID) -> int:
    """Return the id in a message, which anybody may have written.

    Raises:
        UnknownJobError: when no row can have such an id.
    """
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= largest:
        raise UnknownJobError(given)
    return given


def _send(wakes: Iterable[Wake], kind: JobKind = JobKind.CRAWL) -> None:
    announce((kind, wake) for wake in wakes)

"""Every message the worker understands. A task calls one function and sends what it returns."""

from collections.abc import Iterable
from typing import Any

import structlog

from pixcrawler_worker import maintenance, runtime
from pixcrawler_worker.celery import announce, app
from pixcrawler_worker.crawl import chunk, planner
from pixcrawler_worker.crawl.planner import UnknownJobError
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.domain.lifecycle import JobKind
from pixcrawler_worker.domain.messages import Task

log = structlog.get_logger()


@app.task(name=Task.CRAWL_START.value)
def start_crawl(crawl_job_id: int, options: dict[str, Any] | None = None) -> None:
    """Plan a pending crawl job; on one that was started do nothing."""
    try:
        _send(planner.start(runtime.current(), crawl_job_id, options or {}))
    except UnknownJobError as error:
        log.warning("message dropped", reason=str(error))


@app.task(name=Task.CRAWL_CHUNK.value)
def run_crawl_chunk(chunk_id: int) -> None:
    """Run one chunk of a crawl job."""
    _send(chunk.run(runtime.current(), chunk_id))


@app.task(name=Task.CRAWL_CANCEL.value)
def cancel_crawl(crawl_job_id: int) -> None:
    """Cancel a crawl job."""
    try:
        planner.cancel(runtime.current(), crawl_job_id)
    except UnknownJobError as error:
        log.warning("message dropped", reason=str(error))


@app.task(name=Task.CRAWL_RETRY.value)
def retry_crawl(crawl_job_id: int) -> None:
    """Run the failed and cancelled chunks of a crawl job again."""
    try:
        _send(planner.retry(runtime.current(), crawl_job_id))
    except UnknownJobError as error:
        log.warning("message dropped", reason=str(error))


@app.task(name=Task.SWEEP.value)
def sweep() -> None:
    """Sweep once, and tidy the storage of jobs that are over."""
    announce(maintenance.sweep(runtime.current()).wakes)
    maintenance.remove_orphans(runtime.current())


def _send(wakes: Iterable[Wake]) -> None:
    announce((JobKind.CRAWL, wake) for wake in wakes)

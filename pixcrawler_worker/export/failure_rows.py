"""The URLs of a crawl job that did not become images, as `pixcrawler jobs failures` and `failed.jsonl` list them."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC
from functools import partial

from pixcrawler_worker.db import candidates
from pixcrawler_worker.db.candidates import Failure
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.domain.list_columns import MAX_CAPTION
from pixcrawler_worker.domain.list_rows import FAILED, FAILED_DETAILS
from pixcrawler_worker.domain.safe_text import safe, safe_json, safe_url

#: Rows that are read in one transaction.
_PAGE = 1000


def columns(sessions: Sessions, crawl_job_id: int) -> tuple[str, ...]:
    """Return the columns of the failures of a crawl job: with captions and columns if its URL list had any."""
    has_details = transact(sessions, partial(candidates.have_list_details, job_id=crawl_job_id))
    return (*FAILED, *FAILED_DETAILS) if has_details else FAILED


def read(
    sessions: Sessions, crawl_job_id: int, *, reasons: Collection[str] = (), retriable: bool = False
) -> Iterator[Failure]:
    """Yield failures of a crawl job, a page in each transaction: a job may have a million.

    Args:
        sessions: the database.
        crawl_job_id: the crawl job.
        reasons: yield only those with one of these; all when empty.
        retriable: yield only those that a retry tries again.
    """
    after = b""

    def page(session: Session, after: bytes) -> list[Failure]:
        return candidates.failures(
            session, crawl_job_id, reasons=reasons, retriable=retriable, after=after, limit=_PAGE
        )

    while found := transact(sessions, partial(page, after=after)):
        yield from found
        after = found[-1].url_hash


def values(failure: Failure, columns: Sequence[str]) -> list[object]:
    """Return the values of a failure in these columns, with safe texts."""
    time = None if failure.tried_at is None else failure.tried_at.astimezone(UTC).isoformat(timespec="seconds")
    details = failure.list_details if isinstance(failure.list_details, Mapping) else {}
    caption, more = details.get("caption"), details.get("columns")
    found = {
        "url": None if failure.url is None else safe_url(failure.url),
        "label": None if failure.label is None else safe(failure.label),
        "reason": safe(failure.reason),
        "detail": None if failure.detail is None else safe(failure.detail),
        "http_status": failure.http_status,
        "retriable": failure.retriable,
        "attempts": failure.attempts,
        "time": time,
        "caption": safe(caption, max_length=MAX_CAPTION) if isinstance(caption, str) else None,
        "columns": safe_json(more) if isinstance(more, Mapping) else None,
    }
    return [found[name] for name in columns]


def line(failure: Failure, columns: Sequence[str]) -> str:
    """Return a failure as a line of JSON, without the end of the line."""
    return json.dumps(dict(zip(columns, values(failure, columns), strict=True)), ensure_ascii=False)

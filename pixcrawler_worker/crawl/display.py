"""The display of crawl jobs on the command line."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pixcrawler_worker import settings
from pixcrawler_worker.crawl import retries
from pixcrawler_worker.db import activity_log, candidates, crawl_history, crawls, extensions, job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView, ExportView, ValidationView
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain import explanations
from pixcrawler_worker.jobs.display import JobDisplay, Row, counts
from pixcrawler_worker.web.host_limits import HostLimits

#: Rejection reasons that are explained when a job has ended; `jobs show` explains all of them.
_MAX_ADVICE = 3


def _details(session: Session, job: CrawlView) -> dict[str, Any]:
    limits = HostLimits(settings.load().host_connections)
    return {
        "extends": extensions.bases(session, job.id),
        "reasons": crawl_history.reasons(session, job.id),
        "retriable": _retriable(session, job.id),
        "waiting": [
            {
                "host": one.host,
                "candidates": one.candidates,
                "until": one.until.isoformat(),
                "connections": limits.of(one.host),
            }
            for one in crawls.waiting(session, job.id)
        ],
        "validations": [
            {"id": one.id, "status": one.status, "valid": one.validated_images, "invalid": one.invalid_images}
            for one in job_views.of_crawl(session, ValidationView, job.id)
        ],
        "exports": [
            {"id": one.id, "status": one.status, "format": one.format, "images": one.exported_images}
            for one in job_views.of_crawl(session, ExportView, job.id)
        ],
    }


def _retriable(session: Session, job_id: int) -> int:
    """Return how many candidates a retry would try again."""
    return 0 if retries.not_again(session, CRAWL_JOBS.ref(job_id)) else candidates.count_retriable(session, job_id)


def _rows(job: CrawlView, details: Mapping[str, Any]) -> list[Row]:
    return [
        ("keywords", [json.dumps(job.keywords, ensure_ascii=False)]),
        ("extends", [", ".join(map(str, details["extends"]))] if details["extends"] else []),
        ("images", [f"{job.valid_images} of {job.max_images}"]),
        ("candidates", [f"{job.total_images} found, {job.downloaded_images} downloaded"]),
        ("waiting", [_waiting(one) for one in details["waiting"]]),
        ("rejected", [*counts(details["reasons"]), *_failures(job, details["retriable"])]),
        ("what to do", [_advice(reason, job) for reason in details["reasons"]]),
        (
            "validation",
            [
                f"{one['id']}  {one['status']}: {one['valid']} valid, {one['invalid']} invalid"
                for one in details["validations"]
            ],
        ),
        (
            "export",
            [f"{one['id']}  {one['status']}: {one['images']} images as {one['format']}" for one in details["exports"]],
        ),
    ]


def _failures(job: CrawlView, retriable: int) -> list[str]:
    """Return what can be done about rejected candidates."""
    if job.total_images <= job.valid_images:
        return []
    lines = [f"list them: pixcrawler jobs failures {job.id}"]
    if retriable and job.ended and job.valid_images < job.max_images:
        lines.append(f"try {retriable} of them again: pixcrawler jobs retry {job.id}")
    return lines


def _waiting(one: Mapping[str, Any]) -> str:
    until = datetime.fromisoformat(one["until"]).astimezone()
    allowed = "" if one["connections"] is None else f", {one['connections']} connections allowed"
    return f"{one['candidates']:>6}  for {one['host']} until {until:%H:%M}{allowed}"


def _advice(reason: str, job: CrawlView) -> str:
    """Return what a rejection reason means, and what to do about it."""
    found = explanations.explain(reason, job=job.argument)
    return f"{reason}: {found.meaning}. {found.remedy}".rstrip()


def _outcome(session: Session, job: CrawlView) -> list[str]:
    """Return why a job ended with fewer images than requested; nothing when it has all of them."""
    if job.valid_images >= job.max_images:
        return []
    ref = CRAWL_JOBS.ref(job.id)
    last = next(iter(activity_log.latest(session, ref, limit=1)), None)
    reason = last.details.get("reason") if last else None
    reasons = crawl_history.reasons(session, job.id)
    rejected = ", ".join(f"{count} {name}" for name, count in reasons.items())
    errors = chunk_results.errors(session, ref)
    return [
        *([str(reason)] if reason else []),
        *([f"rejected: {rejected}"] if rejected else []),
        *(
            _advice(name, job)
            for name in [name for name in reasons if not explanations.explain(name).is_usual][:_MAX_ADVICE]
        ),
        *(f"failed: {count} x {error}" for error, count in errors.items()),
    ]


CRAWL_DISPLAY = JobDisplay(
    view=CrawlView, listed_by="pixcrawler jobs list", details=_details, rows=_rows, outcome=_outcome
)

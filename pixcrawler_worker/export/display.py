"""How export jobs are shown on the command line."""

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.jobs.display import JobDisplay, Row


def _no_details(session: Session, job: ExportView) -> dict[str, Any]:
    """Return nothing: the row has everything."""
    del session, job
    return {}


def _rows(job: ExportView, details: Mapping[str, Any]) -> list[Row]:
    del details
    options = job.export_options if isinstance(job.export_options, dict) else {}
    files = [_file(part) for part in _parts(job)]
    expires = [f"{job.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"] if job.download_url and job.expires_at else []
    return [
        ("format", [job.format]),
        ("options", [json.dumps({k: v for k, v in options.items() if k != "result"}, ensure_ascii=False)]),
        ("images", [f"{job.exported_images} of {job.total_images}"]),
        ("note", [job.error_message] if job.error_message else []),
        ("files", files),
        ("expires", expires),
    ]


def _outcome(session: Session, job: ExportView) -> list[str]:
    del session
    parts = _parts(job)
    size = f"{stored_json.counts(job.result).get('file_size', 0):,} bytes"
    return [
        *([f"{len(parts)} files, {size}" if len(parts) > 1 else size] if parts else []),
        *_urls(job),
        *([job.error_message] if job.error_message else []),
    ]


def _parts(job: ExportView) -> list[Mapping[str, Any]]:
    """Return the parts in the result, which anything may have been written over."""
    parts = job.result.get("parts")
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _file(part: Mapping[str, Any]) -> str:
    numbers = stored_json.counts(part)
    images, size = numbers.get("images", 0), numbers.get("size", 0)
    return f"{part.get('name')}  {images:,} images, {size:,} bytes, sha256 {str(part.get('sha256'))[:16]}..."


def _urls(job: ExportView) -> list[str]:
    return [job.download_url] if job.download_url else []


EXPORT_DISPLAY = JobDisplay(
    view=ExportView,
    listed_by="pixcrawler jobs list --kind export",
    details=_no_details,
    rows=_rows,
    outcome=_outcome,
    urls=_urls,
)

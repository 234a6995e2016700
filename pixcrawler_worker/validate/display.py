"""The display of validation jobs on the command line."""

import json
from collections.abc import Mapping
from typing import Any

from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.jobs.display import JobDisplay, Row, counts
from pixcrawler_worker.validate import finding_counts


def _details(session: Session, job: ValidationView) -> dict[str, Any]:
    return {"counts": dict(finding_counts.counts(session, job.id))}


def _rows(job: ValidationView, details: Mapping[str, Any]) -> list[Row]:
    return [
        ("rules", [json.dumps(job.validation_rules, ensure_ascii=False)]),
        ("images", [f"{job.total_images}: {job.validated_images} valid, {job.invalid_images} invalid"]),
        ("note", [job.error_message] if job.error_message else []),
        ("findings", counts(details["counts"])),
    ]


def _outcome(session: Session, job: ValidationView) -> list[str]:
    found = ", ".join(f"{count} {check}" for check, count in finding_counts.counts(session, job.id).items())
    return [
        *([f"valid: {job.validated_images}, invalid: {job.invalid_images}"] if job.total_images else []),
        *([f"findings: {found}"] if found else []),
        *([job.error_message] if job.error_message else []),
    ]


VALIDATION_DISPLAY = JobDisplay(
    view=ValidationView,
    listed_by="pixcrawler jobs list --kind validation",
    details=_details,
    rows=_rows,
    outcome=_outcome,
)

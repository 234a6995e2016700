"""The append-only log of the events of jobs, for their owners."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import String, cast, exists, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.models import ActivityLog, Project
from pixcrawler_worker.domain.postgres_types import storable_json

#: The event whose details are the options of `pixcrawler build`, for the build that resumes the job.
BUILD_REQUESTED = "build_requested"


def record(session: Session, ref: JobRef, event: str, details: Mapping[str, Any] | None = None) -> None:
    """Add an entry for the owner of a job; do nothing when the job is deleted.

    Args:
        session: the transaction of the event, so that the entry exists if and only if the event happened.
        ref: the job.
        event: `started`, `completed`, ...
        details: for `metadata_`.
    """
    model = ref.table.model
    session.execute(
        insert(ActivityLog).from_select(
            ["user_id", "action", "resource_type", "resource_id", "metadata_"],
            select(
                Project.user_id,
                literal(f"{_resource(ref)}.{event}"),
                literal(_resource(ref)),
                cast(model.id, String),
                literal(storable_json(dict(details or {})), JSONB),
            )
            .select_from(ref.table.owners)
            .where(model.id == ref.id),
        )
    )


def record_once(session: Session, ref: JobRef, event: str, details: Mapping[str, Any]) -> bool:
    """Add an entry unless the job has one with the same event and details; return whether it was added.

    The caller holds the job's lock, so that one of several at once adds it.
    """
    same = exists().where(
        ActivityLog.resource_type == _resource(ref),
        ActivityLog.resource_id == str(ref.id),
        ActivityLog.action == f"{_resource(ref)}.{event}",
        ActivityLog.metadata_ == literal(dict(details), JSONB),
    )
    if session.scalar(select(same)):
        return False
    record(session, ref, event, details)
    return True


def newest_details(session: Session, ref: JobRef, event: str) -> dict[str, Any] | None:
    """Return the details of the newest entry of a job about an event; None without one."""
    entry = session.scalars(
        select(ActivityLog)
        .where(
            ActivityLog.resource_type == _resource(ref),
            ActivityLog.resource_id == str(ref.id),
            ActivityLog.action == f"{_resource(ref)}.{event}",
        )
        .order_by(ActivityLog.id.desc())
        .limit(1)
    ).one_or_none()
    return None if entry is None else entry.details


def latest(session: Session, ref: JobRef, *, limit: int = 20) -> list[ActivityLog]:
    """Return the newest entries of a job, newest first."""
    return list(
        session.scalars(
            select(ActivityLog)
            .where(ActivityLog.resource_type == _resource(ref), ActivityLog.resource_id == str(ref.id))
            .order_by(ActivityLog.id.desc())
            .limit(limit)
        )
    )


def _resource(ref: JobRef) -> str:
    return f"{ref.table.name}_job"

"""What the chunks of a job have reported, and their states: read only."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.lifecycle import ChunkState


@dataclass(frozen=True, slots=True)
class EndedChunk:
    """A chunk that was completed or failed: its payload, and its result or its error."""

    payload: dict[str, Any]
    state: ChunkState
    result: dict[str, Any]
    error: str | None


def results(session: Session, ref: JobRef) -> list[dict[str, Any]]:
    """Return what the job's chunks have reported, in their order: completed ones, and parts of others."""
    rows = session.scalars(
        select(Chunk.result).where(jobs.belongs_to(ref), Chunk.result.is_not(None)).order_by(Chunk.seq)
    )
    return [row for row in rows if isinstance(row, dict)]


def errors(session: Session, ref: JobRef, *, limit: int = 5) -> dict[str, int]:
    """Return why the job's failed chunks failed, with counts, the most frequent first."""
    model: Any = ref.table.model
    if ref.table.has("failed_chunks") and not session.scalar(select(model.failed_chunks).where(model.id == ref.id)):
        return {}
    failed = (
        select(Chunk.error, func.count())
        .where(jobs.belongs_to(ref), Chunk.state == ChunkState.FAILED, Chunk.error.is_not(None))
        .group_by(Chunk.error)
        .order_by(func.count().desc())
        .limit(limit)
    )
    return {error: count for error, count in session.execute(failed) if error is not None}


def ended(session: Session, ref: JobRef) -> list[EndedChunk]:
    """Return the chunks of a job that were completed or failed, in their order."""
    rows = session.execute(
        select(Chunk.payload, Chunk.state, Chunk.result, Chunk.error)
        .where(jobs.belongs_to(ref), Chunk.state.in_([ChunkState.COMPLETED, ChunkState.FAILED]))
        .order_by(Chunk.seq)
    )
    return [
        EndedChunk(
            stored_json.as_object(row.payload), ChunkState(row.state), stored_json.as_object(row.result), row.error
        )
        for row in rows
    ]


def open_payloads(session: Session, ref: JobRef) -> list[dict[str, Any]]:
    """Return the payloads of the job's open chunks, in their order."""
    query = select(Chunk.payload).where(jobs.belongs_to(ref), Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING]))
    return [stored_json.as_object(payload) for payload in session.scalars(query.order_by(Chunk.seq))]


def states(session: Session, ref: JobRef) -> dict[str, int]:
    """Return the number of the job's chunks in each state that occurs, with those that are deleted.

    Of a kind whose rows count chunks, those that have ended are not counted again: there may be any number of them.
    """
    of_job = jobs.belongs_to(ref)
    if not ref.table.has("active_chunks"):
        query = select(Chunk.state, func.count()).where(of_job).group_by(Chunk.state)
        by_state: dict[str, int] = dict(session.execute(query).all())
        if deleted := jobs.pruned(session, ref):
            by_state[ChunkState.COMPLETED] = by_state.get(ChunkState.COMPLETED, 0) + deleted
        return by_state
    model: Any = ref.table.model
    row = session.execute(
        select(
            model.total_chunks,
            model.completed_chunks,
            model.failed_chunks,
            *(
                select(func.count()).where(of_job, Chunk.state == state).scalar_subquery()
                for state in (ChunkState.QUEUED, ChunkState.RUNNING)
            ),
        ).where(model.id == ref.id)
    ).one_or_none()
    if row is None:
        return {}
    total, completed, failed, queued, running = row
    found = {
        ChunkState.CANCELLED: total - completed - failed - queued - running,
        ChunkState.COMPLETED: completed,
        ChunkState.FAILED: failed,
        ChunkState.QUEUED: queued,
        ChunkState.RUNNING: running,
    }
    return {state: count for state, count in found.items() if count > 0}

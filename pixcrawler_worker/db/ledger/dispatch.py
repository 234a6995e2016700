"""Which chunks a message is sent for, and which messages must be lost. The caller sends them after its commit."""

import uuid
from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, Subquery, case, exists, func, or_, select, update
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import broker, looks, statements
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, JobTable
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import execute_prepared
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.domain.postgres_types import MAX_INT4

#: The interval until a message counts as lost doubles so many times at most: it becomes 16 times the first one.
_MAX_DOUBLINGS = 4

_NOW = func.clock_timestamp()


def next_due(session: Session, ref: JobRef, *, limit: int) -> list[ChunkMessage]:
    """Choose due chunks of the job that no message was sent for, in their order, and note that one is sent now."""
    values = {"job": ref.id, "limit": limit}
    sent = dict(execute_prepared(session, statements.dispatch(ref.table), values).fetchall())
    return _messages(ref.table, sent)


def lost(session: Session, table: JobTable, *, after: timedelta, limit: int, skip: Collection[int] = ()) -> list[int]:
    """Return due chunks of running jobs whose message must be lost.

    A message counts as lost after the given time, a second one after twice that time, up to 16 times that time: a queue
    that is only long is not flooded. One that was sent before the broker lost its messages counts as lost at once.

    Args:
        session: any transaction.
        table: of the kind of job.
        after: age of a first message that is lost.
        limit: of chunks.
        skip: ids of chunks to leave out.
    """
    return looks.ids(session, _not_skipped, table, after, limit, skip=skip)


def _not_skipped(table: JobTable, after: timedelta, limit: int) -> Select[int]:
    return _lost(table, after, limit).where(looks.not_skipped(Chunk.id))


def resend_lost(
    session: Session, table: JobTable, *, after: timedelta, limit: int, among: Collection[int] | None = None
) -> list[ChunkMessage]:
    """Choose chunks whose message must be lost, see `lost`, and note that it is sent again.

    Args:
        session: any transaction.
        table: of the kind of job.
        after: age of a first message that is lost.
        limit: of messages.
        among: ids of chunks to choose from; None for all.
    """
    query = _lost(table, after, limit)
    if among is not None:
        query = query.where(Chunk.id.in_(among))
    locked = query.with_for_update(of=Chunk, key_share=True, skip_locked=True)
    return _dispatch(session, table, list(session.scalars(locked)))


def _lost(table: JobTable, after: timedelta, limit: int) -> Select[int]:
    doublings = func.least(func.greatest(Chunk.dispatch_count, 1) - 1, _MAX_DOUBLINGS)
    return (
        select(Chunk.id)
        .join(table.model, table.chunk_key == table.model.id)
        .where(
            Chunk.state == ChunkState.QUEUED,
            Chunk.available_at <= _NOW,
            Chunk.dispatched_at.is_not(None),
            # The other way round, a time at the end of what the type has would be an error.
            or_(
                Chunk.dispatched_at < _NOW - after * func.power(2, doublings),
                Chunk.dispatched_at < broker.lost_at(),
            ),
            table.model.status == JobStatus.RUNNING,
        )
        .order_by(Chunk.id)
        .limit(limit)
    )


def short_of_messages(session: Session, table: JobTable, *, window: int) -> list[tuple[JobRef, int]]:
    """Return running jobs that have due chunks without a message, with how many messages may be sent now.

    Args:
        session: any transaction.
        table: of the kind of job.
        window: chunks of one job that may be running or dispatched at a time.
    """
    return [(table.ref(job_id), window - under_way) for job_id, under_way in looks.find(session, _short, table, window)]


def _short(table: JobTable, window: int) -> Select[int, int]:
    model = table.model
    is_queued = Chunk.state == ChunkState.QUEUED
    waits = exists().where(
        table.chunk_key == model.id, is_queued, Chunk.dispatched_at.is_(None), Chunk.available_at <= _NOW
    )
    # Neither looks at chunks that wait, of which a job may have any number.
    running = _by_job(table, Chunk.state == ChunkState.RUNNING)
    dispatched = _by_job(table, is_queued & Chunk.dispatched_at.is_not(None))
    total = func.coalesce(running.c.chunks, 0) + func.coalesce(dispatched.c.chunks, 0)
    return (
        select(model.id, total)
        .select_from(model)
        .outerjoin(running, running.c.job_id == model.id)
        .outerjoin(dispatched, dispatched.c.job_id == model.id)
        .where(model.status == JobStatus.RUNNING, total < window, waits)
    )


def _by_job(table: JobTable, condition: ColumnElement[bool]) -> Subquery:
    """Return the numbers of chunks with a condition by job."""
    return (
        select(table.chunk_key.label("job_id"), func.count().label("chunks"))
        .where(table.chunk_key.is_not(None), condition)
        .group_by(table.chunk_key)
        .subquery()
    )


def _dispatch(session: Session, table: JobTable, ids: list[int]) -> list[ChunkMessage]:
    if not ids:
        return []
    rows = session.execute(
        update(Chunk)
        .where(Chunk.id.in_(ids))
        .values(
            dispatched_at=_NOW,
            # With the broker's messages, the queue that grew so long is gone.
            dispatch_count=case(
                (Chunk.dispatched_at < broker.lost_at(), 1),
                else_=func.least(Chunk.dispatch_count, MAX_INT4 - 1) + 1,
            ),
        )
        .returning(Chunk.id, Chunk.task_id)
        .execution_options(synchronize_session=False)
    )
    return _messages(table, {row.id: row.task_id for row in rows})


def _messages(table: JobTable, task_ids: Mapping[int, uuid.UUID]) -> list[ChunkMessage]:
    return [
        ChunkMessage(table.chunk_task, table.queue, chunk_id, str(task_ids[chunk_id])) for chunk_id in sorted(task_ids)
    ]

"""Which chunk a process runs when a message arrives: the turns of owners and of jobs.

A message is permission to run one chunk. Messages stand in a list, so those of a large job are in front of those of a
job that was started later. Whose turn it is, is therefore decided when a message arrives: if it is another job's, the
process claims a chunk of that job, and the message goes back to the end of the list.
"""

import functools
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Compiled,
    Dialect,
    Float,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    extract,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import chunks, jobs, statements
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, JobTable
from pixcrawler_worker.db.models import Profile
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import execute_prepared
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus

_NOW = func.clock_timestamp()
_DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
#: Running chunks by which the job that ends soonest may be ahead when it is favored: of two processes it gets both, of
#: four it gets three. The half decides for it when both have that many.
_LEAD = 1.5
#: Age of a message that an idle process would have taken.
_FRESH_MESSAGE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a message leads to.

    Attributes:
        claim: the chunk that is to be run, which may be another one than the message names; None when there is nothing
            to do.
        postponed: the message, to be sent again, when another chunk was claimed.
    """

    claim: Claim | None = None
    postponed: ChunkMessage | None = None


def claim(  # noqa: PLR0913 - what `chunks.claim` needs, and what decides on the turn
    session: Session,
    table: JobTable,
    chunk_id: int,
    *,
    tables: Sequence[JobTable],
    owner: str,
    lease: timedelta,
    favor_short: bool,
    held: Collection[JobRef] = (),
) -> Taken:
    """Claim the chunk that a message names, or one of a job whose turn it is.

    A duplicate, early or stale message is no permission: nothing is claimed, so that messages do not multiply.

    Args:
        session: a transaction of its own.
        table: of the kind of job that the message is about.
        chunk_id: from the message.
        tables: of the kinds whose chunks may be claimed instead.
        owner: unique to this delivery, so that a claim whose COMMIT lost its answer is found again.
        lease: how long the claim is valid without a heartbeat.
        favor_short: see `next_turn`.
        held: jobs of which no chunk is claimed.

    Raises:
        NotRunningError: when the job is not running. Roll back: the chunks stay as they were.
    """
    tables = tuple(tables)
    row = execute_prepared(session, statements.look(table, tables), {"chunk": chunk_id, "owner": owner}).fetchone()
    if row is None or row[0] is None:
        return Taken()
    job_id, is_claimable, mine, *others = row
    named = table.ref(job_id)
    if mine is not None:
        taken = _claimed(session, {table, *tables}, mine, owner=owner, lease=lease)
        return Taken(taken, _postpone(session, table, chunk_id) if mine != chunk_id else None)
    if not is_claimable or named in held:
        return Taken()
    # One job alone is the common case, and cheap.
    busy = tuple(itertools.compress(tables, others))
    turn = next_turn(session, busy, named, favor_short=favor_short) if busy else named
    if turn not in {named, *held} and (other := _first_claimable(session, turn)) is not None:
        taken = chunks.claim(session, turn.table, other, owner=owner, lease=lease)
        return Taken(taken, _postpone(session, table, chunk_id))
    return Taken(chunks.claim(session, table, chunk_id, owner=owner, lease=lease))


@dataclass(frozen=True, slots=True)
class Further:
    """A chunk that was claimed without its message.

    Attributes:
        claim: of the chunk.
        has_message: whether one was sent, which will find the chunk claimed.
    """

    claim: Claim
    has_message: bool


def claim_further(  # noqa: PLR0913 - what `claim` needs, and what the process runs already
    session: Session,
    *,
    tables: Sequence[JobTable],
    overlapping: Collection[JobTable],
    beside: Sequence[Claim],
    owner: str,
    lease: timedelta,
    favor_short: bool,
    held: Collection[JobRef] = (),
) -> Further | None:
    """Claim a chunk of the job whose turn it is, for a process that has room for one beside those that it runs.

    A chunk that was running when a process died runs alone until it has ended: should it be what kills processes, it
    must not take others with it twice. One whose message has just been sent is left to a process that waits for it.

    Args:
        session: a transaction of its own.
        tables: of the kinds that the process serves.
        overlapping: those of them whose chunks may run beside others. When it is the turn of another kind, there is no
            chunk: the process has to become free for it.
        beside: what the process runs, of which there is at least one.
        owner: see `claim`.
        lease: how long the claim is valid without a heartbeat.
        favor_short: see `next_turn`.
        held: jobs of which no chunk is claimed.

    Raises:
        NotRunningError: when the job is not running. Roll back: the chunk stays as it was.
    """
    running = [claim.chunk_id for claim in beside]
    if session.scalar(select(exists().where(Chunk.id.in_(running), Chunk.crash_count > 0))):
        return None
    named = beside[-1].job
    look = statements.look(named.table, tuple(tables))
    row = execute_prepared(session, look, {"chunk": beside[-1].chunk_id, "owner": owner}).fetchone()
    if row is not None and (mine := row[2]) is not None:
        again = _claimed(session, tables, mine, owner=owner, lease=lease)
        has_message = session.scalar(select(Chunk.dispatched_at.is_not(None)).where(Chunk.id == mine))
        return Further(again, bool(has_message)) if again is not None else None
    busy = tuple(itertools.compress(tables, row[3:])) if row is not None else ()
    turn = next_turn(session, busy, named, favor_short=favor_short) if busy else named
    if turn.table not in overlapping or turn in held:
        return None
    jobs.pin(session, turn)
    free = (
        select(Chunk.id)
        .where(jobs.belongs_to(turn), chunks.claimable(), Chunk.crash_count == 0)
        .order_by(Chunk.seq)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    for has_message, condition in (
        (False, Chunk.dispatched_at.is_(None)),
        (True, Chunk.dispatched_at < _NOW - _FRESH_MESSAGE),
    ):
        if (found := session.scalar(free.where(condition))) is not None:
            claimed = chunks.claim(session, turn.table, found, owner=owner, lease=lease)
            return Further(claimed, has_message) if claimed is not None else None
    return None


def others_wait(session: Session, ref: JobRef) -> bool:
    """Return whether another job, of whatever kind, has chunks that can be claimed."""
    model = ref.table.model
    due = select(literal(1)).where(ref.table.chunk_key == model.id, chunks.claimable()).limit(1).scalar_subquery()
    same_kind = exists().where(model.status == JobStatus.RUNNING, model.id != ref.id, due.is_not(None))
    other_kind = exists().where(ref.table.chunk_key.is_(None), chunks.claimable())
    return bool(session.scalar(select(or_(same_kind, other_kind))))


def any_waits(session: Session) -> bool:
    """Return whether any chunk can be claimed."""
    return bool(session.scalar(select(exists().where(chunks.claimable()))))


def next_turn(session: Session, tables: tuple[JobTable, ...], named: JobRef, *, favor_short: bool) -> JobRef:
    """Return the job of which a free process is to claim a chunk: one that has claimable chunks, or `named`.

    It is a job of the owner with the fewest running chunks, and of that owner's jobs the one with the fewest. Among
    equals it is the job that the message names, and then the one that will end soonest.

    Args:
        session: any transaction.
        tables: of the kinds that the process serves, and of which jobs run.
        named: the job of the chunk that the message names.
        favor_short: let the job that will end soonest be ahead of the others, by up to `_LEAD` running chunks. When
            every second claim does so, the others keep at least half of what they would have without it.
    """
    if named.table not in tables:
        tables += (named.table,)
    found = _execute(session, _ranked(tables), id=named.id, kind=named.table.name, lead=_LEAD if favor_short else 0.0)
    return next((table.ref(job_id) for kind, job_id in found for table in tables if table.name == kind), named)


def _execute(session: Session, query: Compiled, **values: object) -> Sequence[Row[*tuple[Any, ...]]]:
    """Execute a compiled query: for a long one, making and compiling it takes longer than PostgreSQL does."""
    return session.connection().exec_driver_sql(str(query), query.construct_params(values)).all()


@functools.cache
def _ranked(tables: tuple[JobTable, ...]) -> Compiled:
    """Return the query for the next turn, with the parameters `kind`, `id` and `lead`."""
    active = union_all(*map(_active, tables)).subquery()
    of_owner = func.sum(active.c.running).over(partition_by=active.c.owner).label("of_owner")
    counted = select(active, of_owner).subquery()
    due = select(counted).where(counted.c.due).subquery()
    lead = case((due.c.remaining == func.min(due.c.remaining).over(), bindparam("lead", type_=Float)), else_=0.0)
    is_named = and_(due.c.kind == bindparam("kind", type_=Text), due.c.id == bindparam("id", type_=Integer))
    return (
        select(due.c.kind, due.c.id)
        .order_by(due.c.of_owner - lead, due.c.running, is_named.desc(), due.c.remaining, due.c.id)
        .limit(1)
        .compile(dialect=_DIALECT)
    )


def _active(table: JobTable) -> Select[Any]:
    """Select the running jobs of a kind with what decides on their turns."""
    model = table.model
    running = (
        select(table.chunk_key.label("job_id"), func.count().label("chunks"))
        .where(Chunk.state == ChunkState.RUNNING, table.chunk_key.is_not(None))
        .group_by(table.chunk_key)
        .subquery()
    )
    # Whatever was written there by hand, it must not stop the others.
    elapsed = case((func.isfinite(model.started_at), extract("epoch", _NOW - model.started_at)), else_=0)
    return (
        select(
            literal(table.name).label("kind"),
            model.id.label("id"),
            Profile.id.label("owner"),
            func.coalesce(running.c.chunks, 0).label("running"),
            # Seconds until its end, if it goes on as it did. A job that was started just now is expected to be short.
            func.greatest(elapsed * (100 - model.progress) / func.greatest(model.progress, 1), 0).label("remaining"),
            # With LIMIT, so that it is looked up for each job: hashed, it would read all queued chunks.
            select(literal(True))
            .where(table.chunk_key == model.id, chunks.claimable())
            .limit(1)
            .scalar_subquery()
            .label("due"),
        )
        .select_from(table.owners)
        .outerjoin(running, running.c.job_id == model.id)
        .where(model.status == JobStatus.RUNNING)
    )


def _claimed(
    session: Session, tables: Iterable[JobTable], chunk_id: int, *, owner: str, lease: timedelta
) -> Claim | None:
    """Return the claim of an owner on a chunk that it has claimed, though the answer to the COMMIT was lost."""
    found = (chunks.claim(session, one, chunk_id, owner=owner, lease=lease) for one in tables)
    return next(filter(None, found), None)


def _first_claimable(session: Session, ref: JobRef) -> int | None:
    """Lock the first chunk of a job that can be claimed and that no other transaction claims; None without one."""
    jobs.pin(session, ref)
    return session.scalar(
        select(Chunk.id)
        .where(jobs.belongs_to(ref), chunks.claimable())
        .order_by(Chunk.seq)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )


def _postpone(session: Session, table: JobTable, chunk_id: int) -> ChunkMessage | None:
    """Note that the message of a chunk is sent again now; None when the chunk has changed meanwhile."""
    # Skipping instead of waiting is what allows this after a job's row was locked.
    free = select(Chunk.id).where(Chunk.id == chunk_id, Chunk.state == ChunkState.QUEUED)
    task_id = session.scalar(
        update(Chunk)
        .where(Chunk.id == free.with_for_update(key_share=True, skip_locked=True).scalar_subquery())
        .values(dispatched_at=_NOW)
        .returning(Chunk.task_id)
        .execution_options(synchronize_session=False)
    )
    return None if task_id is None else ChunkMessage(table.chunk_task, table.queue, chunk_id, str(task_id))

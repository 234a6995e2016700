"""Delete old rows that no job needs any more, in small transactions.

What a retry, a list of failures, an export or a counter is made from stays. So rows of the ledger are only deleted for
*settled* jobs: completed ones for which a retry has nothing to do, of crawls neither now nor after a validation. The
sums of their chunks are kept in the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased
from sqlalchemy.types import LargeBinary

from pixcrawler_worker.db import activity_log, crawl_history, crawls
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import ActivityLog, CrawlJob
from pixcrawler_worker.db.private_models import Chunk, CrawlCandidate, CrawlPlan
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.errors import PermanentError

#: Rows that one transaction deletes at most: it takes a fraction of a second, and locks nothing that workers wait for.
BATCH = 1000

_NOW = func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class Prunable:
    """What there is to delete.

    Attributes:
        rows: that can be deleted.
        jobs: that they belong to; 0 for activity logs.
        kept_jobs: jobs of that age whose rows stay, because a retry of them has more to do.
    """

    rows: int
    jobs: int = 0
    kept_jobs: int = 0


def require_rights(session: Session) -> None:
    """Return if the role may delete the rows, else raise.

    Raises:
        PermanentError: when it may not.
    """
    for table in ("public.activity_logs", "pixcrawler.chunks", "pixcrawler.crawl_candidates"):
        if not session.scalar(select(func.has_table_privilege(table, "DELETE"))):
            raise PermanentError(
                f"the role may not delete rows of {table}: run this as the role that runs pixcrawler db upgrade"
            )


def _settled(age: timedelta) -> ColumnElement[bool]:
    """Return the condition that a crawl job ended that long ago, and can never run again."""
    chunk = aliased(Chunk)
    of_job = chunk.crawl_job_id == CrawlJob.id
    return and_(
        _ended(age),
        CrawlJob.failed_chunks == 0,
        # The sweep has removed the files of late attempts: none of them comes back.
        exists().where(CrawlPlan.crawl_job_id == CrawlJob.id, CrawlPlan.cleaned_at.is_not(None), ~CrawlPlan.as_given),
        ~exists().where(of_job, chunk.state != ChunkState.COMPLETED),
        ~exists().where(of_job, chunk.result.has_key("retriable")),
        ~exists().where(CrawlCandidate.crawl_job_id == CrawlJob.id, CrawlCandidate.retriable),
    )


def _ended(age: timedelta) -> ColumnElement[bool]:
    return and_(CrawlJob.status == JobStatus.COMPLETED, CrawlJob.completed_at < _NOW - age)


def _has_chunks() -> ColumnElement[bool]:
    """Return the condition that a job has more than the chunk that is kept."""
    return select(func.count()).where(Chunk.crawl_job_id == CrawlJob.id).scalar_subquery() > 1


def _accepted() -> ColumnElement[bool]:
    """Return the condition that a candidate became an image: it is in no list of failures."""
    return and_(CrawlCandidate.crawl_job_id == CrawlJob.id, CrawlCandidate.reason.is_(None))


def chunk_jobs(session: Session, age: timedelta, *, after: int = 0) -> list[int]:
    """Return settled crawl jobs with chunks that can be deleted: the first ones with greater ids than `after`."""
    return list(session.scalars(_page(after).where(_settled(age), _has_chunks())))


def candidate_jobs(session: Session, age: timedelta, *, after: int = 0) -> list[int]:
    """Return settled crawl jobs with candidates that can be deleted: the first ones with greater ids than `after`."""
    return list(session.scalars(_page(after).where(_settled(age), exists().where(_accepted()))))


def _page(after: int) -> Select[int]:
    return select(CrawlJob.id).where(CrawlJob.id > after).order_by(CrawlJob.id).limit(BATCH)


def count_chunks(session: Session, age: timedelta) -> Prunable:
    """Return how many chunks can be deleted."""
    settled = select(CrawlJob.id).where(_settled(age), _has_chunks()).subquery()
    rows, of_jobs = session.execute(
        select(func.count(), func.count(Chunk.crawl_job_id.distinct())).where(Chunk.crawl_job_id.in_(select(settled)))
    ).one()
    kept = session.scalar(select(func.count()).where(_ended(age), not_(_settled(age)))) or 0
    return Prunable(rows - of_jobs, of_jobs, kept)


def count_candidates(session: Session, age: timedelta) -> Prunable:
    """Return how many candidates can be deleted."""
    settled = select(CrawlJob.id).where(_settled(age)).subquery()
    rows, of_jobs = session.execute(
        select(func.count(), func.count(CrawlCandidate.crawl_job_id.distinct())).where(
            CrawlCandidate.crawl_job_id.in_(select(settled)), CrawlCandidate.reason.is_(None)
        )
    ).one()
    kept = session.scalar(select(func.count()).where(_ended(age), not_(_settled(age)))) or 0
    return Prunable(rows, of_jobs, kept)


def delete_chunks(session: Session, job_id: int, age: timedelta, *, list_source: str) -> int:
    """Delete a batch of the chunks of a settled crawl job, and return how many.

    The last chunk stays, with the sums of all: what reports say of the job's candidates does not change.

    Args:
        session: a transaction of its own.
        job_id: the row in `crawl_jobs`.
        age: of its end, at least.
        list_source: name of the source that takes a job's URL list.
    """
    ref = CRAWL_JOBS.ref(job_id)
    jobs.pin(session, ref)
    last = session.scalar(select(Chunk.id).where(Chunk.crawl_job_id == job_id).order_by(Chunk.seq.desc()).limit(1))
    batch = (
        select(Chunk.id).where(Chunk.crawl_job_id == job_id, Chunk.id != last).order_by(Chunk.seq).limit(BATCH)
    ).scalar_subquery()
    rows = session.execute(
        select(Chunk.id, Chunk.result)
        .where(or_(Chunk.id == last, Chunk.id.in_(batch)))
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    jobs.lock(session, ref)
    # Again, now that no transition of the job can commit.
    if not session.scalar(select(exists().where(CrawlJob.id == job_id, _settled(age)))):
        return 0
    kept = next((row for row in rows if row.id == last), None)
    dropped = [row for row in rows if row.id != last]
    if kept is None or not dropped:
        return 0
    result = dict(kept.result) if isinstance(kept.result, dict) else {}
    if jobs.PRUNED not in result:
        left = crawls.candidate_counts(session, job_id, list_source=list_source).left
        result[jobs.PRUNED] = {"chunks": 0, "left": left}
    result[jobs.PRUNED] = result[jobs.PRUNED] | {"chunks": result[jobs.PRUNED]["chunks"] + len(dropped)}
    result["reasons"] = _sum(result.get("reasons"), *(_part(row.result, "reasons") for row in dropped))
    crawl_history.forget(session, job_id)
    result["stored"] = sum(
        stored_json.counts(one).get("stored", 0) for one in (result, *(row.result for row in dropped))
    )
    return _replace(session, kept.id, result, [row.id for row in dropped])


def _simply_settled(table: JobTable, age: timedelta) -> ColumnElement[bool]:
    """Return the condition that a job of another kind ended that long ago, and has chunks that can be deleted.

    A retry of such a job runs chunks that failed or were cancelled. Without any there is nothing that it could do.
    """
    of_job = table.chunk_key == table.model.id
    return and_(
        table.model.status == JobStatus.COMPLETED,
        table.model.completed_at < _NOW - age,
        ~exists().where(of_job, Chunk.state != ChunkState.COMPLETED),
        select(func.count()).where(of_job).scalar_subquery() > 1,
    )


def simple_jobs(session: Session, table: JobTable, age: timedelta, *, after: int = 0) -> list[int]:
    """Return settled validations or exports with chunks that can be deleted: the first ones behind `after`."""
    model = table.model
    settled = select(model.id).where(model.id > after, _simply_settled(table, age)).order_by(model.id).limit(BATCH)
    return list(session.scalars(settled))


def count_simple_chunks(session: Session, table: JobTable, age: timedelta) -> Prunable:
    """Return how many chunks of validations or of exports can be deleted."""
    model = table.model
    settled = select(model.id).where(_simply_settled(table, age))
    rows, of_jobs = session.execute(
        select(func.count(), func.count(table.chunk_key.distinct())).where(table.chunk_key.in_(settled))
    ).one()
    old = and_(model.status == JobStatus.COMPLETED, model.completed_at < _NOW - age)
    open_ = exists().where(table.chunk_key == model.id, Chunk.state != ChunkState.COMPLETED)
    return Prunable(rows - of_jobs, of_jobs, session.scalar(select(func.count()).where(old, open_)) or 0)


def delete_simple_chunks(session: Session, table: JobTable, job_id: int, age: timedelta) -> int:
    """Delete a batch of the chunks of a settled validation or export, and return how many.

    The last chunk stays, with the number of the others and the sums of what they found.

    Args:
        session: a transaction of its own.
        table: of the kind.
        job_id: the row.
        age: of its end, at least.
    """
    ref = table.ref(job_id)
    jobs.pin(session, ref)
    of_job = table.chunk_key == job_id
    last = session.scalar(select(Chunk.id).where(of_job).order_by(Chunk.seq.desc()).limit(1))
    batch = select(Chunk.id).where(of_job, Chunk.id != last).order_by(Chunk.seq).limit(BATCH).scalar_subquery()
    rows = session.execute(
        select(Chunk.id, Chunk.result)
        .where(or_(Chunk.id == last, Chunk.id.in_(batch)))
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    jobs.lock(session, ref)
    # Again, now that no transition of the job can commit.
    if not session.scalar(select(exists().where(table.model.id == job_id, _simply_settled(table, age)))):
        return 0
    kept = next((row for row in rows if row.id == last), None)
    dropped = [row for row in rows if row.id != last]
    if kept is None or not dropped:
        return 0
    result = dict(kept.result) if isinstance(kept.result, dict) else {}
    before = stored_json.counts(result.get(jobs.PRUNED)).get("chunks", 0)
    result[jobs.PRUNED] = {"chunks": before + len(dropped)}
    if found := _sum(result.get("counts"), *(_part(row.result, "counts") for row in dropped)):
        result["counts"] = found
    return _replace(session, kept.id, result, [row.id for row in dropped])


def _replace(session: Session, kept_id: int, result: Mapping[str, object], dropped: Sequence[int]) -> int:
    """Write the sums of all chunks to the one that stays, and delete the others; return their number."""
    session.execute(
        update(Chunk).where(Chunk.id == kept_id).values(result=result).execution_options(synchronize_session=False)
    )
    session.execute(
        delete(Chunk)
        .where(Chunk.id == func.any(literal(list(dropped), ARRAY(Chunk.id.type))))
        .execution_options(synchronize_session=False)
    )
    return len(dropped)


def _part(result: object, name: str) -> object:
    return result.get(name) if isinstance(result, dict) else None


def _sum(*parts: object) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in stored_json.counts(part).items():
            total[name] = total.get(name, 0) + count
    return total


def delete_candidates(session: Session, job_id: int, age: timedelta) -> int:
    """Delete a batch of the candidates of a settled crawl job that became images, and return how many."""
    ref = CRAWL_JOBS.ref(job_id)
    jobs.lock(session, ref)
    if not session.scalar(select(exists().where(CrawlJob.id == job_id, _settled(age)))):
        return 0
    hashes = session.scalars(
        select(CrawlCandidate.url_hash)
        .where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.reason.is_(None))
        .order_by(CrawlCandidate.url_hash)
        .limit(BATCH)
    ).all()
    deleted = session.execute(
        delete(CrawlCandidate)
        .where(
            CrawlCandidate.crawl_job_id == job_id,
            CrawlCandidate.url_hash == func.any(literal(list(hashes), ARRAY(LargeBinary))),
        )
        .returning(CrawlCandidate.url_hash)
        .execution_options(synchronize_session=False)
    )
    return len(deleted.all())


def _old_logs(tables: tuple[JobTable, ...], age: timedelta) -> ColumnElement[bool]:
    """Return the condition that an entry is that old, and that no job needs it.

    The log of a job that has not completed says why, and with which options it goes on.
    """
    needed = [
        and_(
            ActivityLog.resource_type == f"{table.name}_job",
            ActivityLog.resource_id.in_(
                select(cast(table.model.id, String)).where(table.model.status != JobStatus.COMPLETED)
            ),
        )
        for table in tables
    ]
    resumed = and_(
        ActivityLog.action == f"crawl_job.{activity_log.BUILD_REQUESTED}",
        ActivityLog.resource_id.in_(select(cast(CrawlJob.id, String))),
    )
    return and_(ActivityLog.timestamp < _NOW - age, not_(func.coalesce(or_(*needed, resumed), False)))


def count_logs(session: Session, tables: tuple[JobTable, ...], age: timedelta) -> Prunable:
    """Return how many entries of the activity log can be deleted."""
    return Prunable(session.scalar(select(func.count()).where(_old_logs(tables, age))) or 0)


def delete_logs(session: Session, tables: tuple[JobTable, ...], age: timedelta) -> int:
    """Delete a batch of the old entries of the activity log, and return how many; another run skips them.

    Args:
        session: a transaction of its own.
        tables: of all kinds of jobs.
        age: of an entry, at least.
    """
    chosen = (
        select(ActivityLog.id)
        .where(_old_logs(tables, age))
        .order_by(ActivityLog.timestamp)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = session.scalars(chosen).all()
    session.execute(
        delete(ActivityLog)
        .where(ActivityLog.id == func.any(literal(list(ids), ARRAY(Integer))))
        .execution_options(synchronize_session=False)
    )
    return len(ids)

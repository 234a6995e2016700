"""Functions that read the ledger, and that do what workers do to it."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from factories import TABLES, make_image
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from pixcrawler_worker.db import images
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger import chunks, jobs, leases
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.leases import Reaped
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.models import CrawlJob, ExportJob, ValidationJob
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus, job_status

T = TypeVar("T")
LEASE = timedelta(seconds=60)

# One statement, so that all of it is seen in one snapshot.
_VIOLATED = text(
    """
    WITH job AS (
        SELECT *, status IN ('completed', 'failed') AS ended FROM crawl_jobs WHERE id = :job
    ), ledger AS (
        SELECT count(*) AS total,
            count(*) FILTER (WHERE state = 'queued') AS queued,
            count(*) FILTER (WHERE state = 'running') AS active,
            count(*) FILTER (WHERE state = 'completed') AS completed,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE (state = 'running') <> (lease_until IS NOT NULL)) AS wrong_leases,
            count(*) FILTER (WHERE state = 'completed' AND result IS NULL) AS without_result,
            count(*) FILTER (WHERE attempt > max_attempts OR crash_count > attempt) AS wrong_attempts,
            count(fence) - count(DISTINCT fence) AS shared_fences,
            count(*) - count(DISTINCT task_id) AS shared_tasks,
            count(*) FILTER (WHERE state IN ('queued', 'running')
                AND NOT (SELECT task_ids FROM job) ? task_id::text) AS unknown_tasks
        FROM pixcrawler.chunks WHERE crawl_job_id = :job
    ), images_of_job AS (
        SELECT count(*) AS rows,
            count(*) - count(facts.image_id) AS without_facts,
            count(*) - count(DISTINCT original_url) AS shared_urls,
            count(*) - count(DISTINCT sha256) AS shared_bytes
        FROM images LEFT JOIN pixcrawler.image_facts AS facts ON facts.image_id = images.id
        WHERE images.crawl_job_id = :job
    )
    SELECT rule FROM job, ledger, images_of_job, LATERAL (VALUES
        ('total_chunks is the ledger''s', total_chunks = total),
        ('active_chunks is the ledger''s', active_chunks = active),
        ('completed_chunks is the ledger''s', completed_chunks = completed),
        ('failed_chunks is the ledger''s', failed_chunks = failed),
        ('counters are not negative', least(total_chunks, active_chunks, completed_chunks, failed_chunks) >= 0),
        ('counters sum to the total at most', active_chunks + completed_chunks + failed_chunks <= total_chunks),
        ('progress is a percentage', progress BETWEEN 0 AND 100),
        ('progress is 100 exactly when completed', (progress = 100) = (status = 'completed')),
        ('valid_images is the number of rows', valid_images = rows),
        ('valid_images is below max_images', valid_images <= max_images),
        ('no two images share a URL', shared_urls = 0),
        ('no two images share bytes', shared_bytes = 0),
        ('every image has its facts', without_facts = 0),
        ('leases are held by running chunks', wrong_leases = 0),
        ('completed chunks have a result', without_result = 0),
        ('attempts are bounded', wrong_attempts = 0),
        ('fences are unique', shared_fences = 0),
        ('task ids are unique', shared_tasks = 0),
        ('task_ids names every open chunk', unknown_tasks = 0),
        ('task_ids are strings', jsonb_path_query_array(task_ids, '$[*].type()') <@ '["string"]'),
        ('a running job has no cancelled chunk', status <> 'running' OR cancelled = 0),
        ('an ended job has no open chunk', NOT ended OR queued + active + cancelled = 0),
        ('an ended job accounts for every chunk', NOT ended OR completed_chunks + failed_chunks = total_chunks),
        ('a job has its times', (started_at IS NOT NULL OR total = 0)
            AND (completed_at IS NOT NULL) = (ended OR status = 'cancelled'))
    ) AS rules (rule, holds) WHERE NOT holds
    """
)

# In one statement as well.
_SUMS = text(
    """
    SELECT round, history, (
        SELECT jsonb_agg(result -> 'reasons') FROM pixcrawler.chunks
        WHERE crawl_job_id = :job AND seq < (history ->> 'before')::bigint AND jsonb_typeof(result) = 'object'
            AND jsonb_typeof(result -> 'reasons') = 'object'
    ) AS reasons
    FROM pixcrawler.crawl_plans WHERE crawl_job_id = :job
    """
)


def check_invariants(session: Session, job_id: int) -> None:
    """Assert what must hold of a crawl job at every committed snapshot."""
    broken = session.scalars(_VIOLATED, {"job": job_id}).all()
    assert not broken, broken
    _check_sums(session, job_id)


def _check_sums(session: Session, job_id: int) -> None:
    """Assert that the kept sums of a crawl job are those of its chunks."""
    row = session.execute(_SUMS, {"job": job_id}).one_or_none()
    if row is None or row.history is None or row.history["round"] > row.round:
        return
    of_chunks: Counter[str] = Counter()
    for counts in row.reasons or ():
        of_chunks.update(counts)
    assert row.history["reasons"] == dict(of_chunks)


def check(sessions: Sessions, *refs: JobRef) -> None:
    """Assert it of several crawl jobs, in a transaction of its own."""
    with sessions.begin() as session:
        for ref in refs:
            check_invariants(session, ref.id)


def chunks_of(sessions: Sessions, ref: JobRef) -> list[Chunk]:
    """The job's chunks as they are now, in their order."""
    with sessions.begin() as session:
        return list(session.scalars(select(Chunk).where(jobs.belongs_to(ref)).order_by(Chunk.seq)))


def ids_of(sessions: Sessions, ref: JobRef) -> list[int]:
    """The ids of the job's chunks, in their order; no other column, so that older schemas have them as well."""
    with sessions.begin() as session:
        return list(session.scalars(select(Chunk.id).where(jobs.belongs_to(ref)).order_by(Chunk.seq)))


def states_of(sessions: Sessions, ref: JobRef) -> list[ChunkState]:
    return [ChunkState(chunk.state) for chunk in chunks_of(sessions, ref)]


def crawl_job(sessions: Sessions, ref: JobRef) -> CrawlJob:
    with sessions.begin() as session:
        return session.get_one(CrawlJob, ref.id)


def other_job(sessions: Sessions, ref: JobRef) -> ValidationJob | ExportJob:
    with sessions.begin() as session:
        if ref.table is VALIDATION_JOBS:
            return session.get_one(ValidationJob, ref.id)
        return session.get_one(ExportJob, ref.id)


def claim(sessions: Sessions, chunk_id: int, *, owner: str = "worker") -> Claim:
    """Claim a chunk that can be claimed."""
    with sessions.begin() as session:
        return next(filter(None, (chunks.claim(session, one, chunk_id, owner=owner, lease=LEASE) for one in TABLES)))


def reap(session: Session) -> Reaped | None:
    """Reap a chunk of a job of any kind."""
    return next(filter(None, (leases.reap(session, table) for table in TABLES)), None)


def bring(
    session: Session, held: Claim, found: Sequence[NewImage] = (), *, gains: Mapping[str, int] | None = None
) -> bool:
    """Finish a claim with images as a worker does; False when the claim is lost."""
    if chunks.lock_claim(session, held) is not ClaimState.VALID:
        return False
    stored = len(images.insert_new(session, held.job.id, found))
    gains = gains or ({"valid_images": stored} if held.job.table is CRAWL_JOBS else {})
    chunks.finish(session, held, result={"stored": stored}, gains=gains)
    return True


def finish(sessions: Sessions, held: Claim, found: Sequence[NewImage] = ()) -> bool:
    """Likewise, in a transaction of its own."""
    with sessions.begin() as session:
        return bring(session, held, found)


def play(sessions: Sessions, ref: JobRef, states: Sequence[ChunkState]) -> None:
    """Bring the job's chunks into these states, each completed one with an image."""
    for chunk_id, state in zip(ids_of(sessions, ref), states, strict=True):
        if state is not ChunkState.QUEUED:
            held = claim(sessions, chunk_id)
        if state is ChunkState.COMPLETED:
            finish(sessions, held, [make_image(f"{ref} {chunk_id}")])
        elif state is ChunkState.FAILED:
            with sessions.begin() as session:
                chunks.fail(session, held, error="broken")


def conclude(sessions: Sessions, ref: JobRef) -> JobStatus:
    """End a job whose chunks have ended."""
    with sessions.begin() as session:
        jobs.lock(session, ref)
        status = job_status(jobs.counters(session, ref))
        jobs.end(session, ref, status)
    return status


def cancel(sessions: Sessions, ref: JobRef) -> int:
    """Cancel a job and its chunks."""
    with sessions.begin() as session:
        assert jobs.cancel(session, ref)
    with sessions.begin() as session:
        return jobs.drop_chunks(session, ref)


def expire_lease(sessions: Sessions, chunk_id: int) -> None:
    """Let the lease of a running chunk expire."""
    execute(
        sessions,
        "UPDATE pixcrawler.chunks SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id",
        id=chunk_id,
    )


def make_due(sessions: Sessions, ref: JobRef) -> None:
    """Make the queued chunks of a crawl job due now."""
    execute(
        sessions,
        "UPDATE pixcrawler.chunks SET available_at = clock_timestamp() WHERE crawl_job_id = :id AND state = 'queued'",
        id=ref.id,
    )


def execute(sessions: Sessions, statement: str, **values: Any) -> None:
    with sessions.begin() as session:
        session.execute(text(statement), values)


def scalar(sessions: Sessions, query: str, **values: Any) -> Any:
    """Return the first column of the first row."""
    with sessions.begin() as session:
        return session.scalar(text(query), values)


def row(sessions: Sessions, query: str, **values: Any) -> tuple[Any, ...]:
    """Return the first row."""
    with sessions.begin() as session:
        return tuple(session.execute(text(query), values).one())


def is_any_waiting_for_lock(sessions: Sessions) -> bool:
    """Whether a transaction of this database waits for a lock; one transaction sees the same activity all the time."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    with sessions.begin() as session:
        return bool(session.scalar(text(waiting)))


def at_once(*functions: Callable[[], T]) -> list[T]:
    """Call all of them at the same moment, each in a thread of its own, and return what they returned."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], T]) -> T:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(call, functions))


def claim_of(session: Session, table: JobTable, chunk_id: int) -> Claim:
    """Claim a chunk of a kind of job, in the caller's transaction."""
    found = chunks.claim(session, table, chunk_id, owner="worker", lease=LEASE)
    assert found is not None
    return found


def finish_with(session: Session, held: Claim, result: Mapping[str, Any], gains: Mapping[str, int]) -> None:
    """Complete a claimed chunk, in the caller's transaction."""
    assert chunks.lock_claim(session, held) is ClaimState.VALID
    chunks.finish(session, held, result=result, gains=gains)


def reap_of(session: Session, table: JobTable) -> Reaped | None:
    """Reap a chunk of a kind of job."""
    return leases.reap(session, table)

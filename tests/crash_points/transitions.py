"""Every transition of a job, as messages, sweeps and callers make it, and how a job comes to where it can happen."""

from collections.abc import Callable
from functools import partial

from crash_points.world import World, raising
from doubles import query
from toy.kind import toy_in_parts

from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import ended_processes, executor, submission, sweeper
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime, owner

#: Makes the transition; called again, it does what a message that is delivered again does.
Act = Callable[[Runtime], object]
Transition = Callable[[World], Act]

_LOST = "clock_timestamp() - interval '1 day'"


def start(world: World) -> Act:
    ref = world.pending()
    return lambda runtime: submission.start(runtime, world.kind, ref.id, world.options)


def reject(world: World) -> Act:
    """A job that cannot be planned."""
    ref = world.pending()
    column, wrong = {
        "crawl": ("keywords", "'7'"),
        "validation": ("validation_rules", "'{\"level\": 7}'"),
        "export": ("export_options", "'{\"archive\": 7}'"),
        "toy": ("numbers", "-1"),
    }[world.name]
    world.execute(f"UPDATE {world.table} SET {column} = {wrong}")
    return lambda runtime: submission.start(runtime, world.kind, ref.id, world.options)


def attempt(world: World) -> Act:
    """Claim, finish, and the dispatch of another chunk."""
    ref = started(world)
    chunk_id = world.chunk_ids(ref)[0]
    return lambda runtime: executor.run(runtime, world.kind, chunk_id)


def last_attempt(world: World) -> Act:
    """Claim, finish, and the next round, or the end of the job."""
    ref = started(world)
    *others, last = world.chunk_ids(ref)
    for chunk_id in others:
        executor.run(world.runtime, world.kind, chunk_id)
    return lambda runtime: executor.run(runtime, world.kind, last)


def part(world: World) -> Act:
    """Claim, and put back the chunk with the rest of its work."""
    world.kind = toy_in_parts()
    chunk_id = world.chunk_ids(started(world))[-1]
    return lambda runtime: executor.run(runtime, world.kind, chunk_id)


def release(world: World) -> Act:
    chunk_id = world.chunk_ids(started(world))[0]
    busy = raising(world.kind, TransientError("busy"))
    return lambda runtime: executor.run(runtime, busy, chunk_id, jitter=lambda: 0.5)


def fail(world: World) -> Act:
    """A chunk that fails whenever it is run."""
    ref = started(world)
    chunk_id = world.chunk_ids(ref)[0]
    world.kind = raising(world.kind, PermanentError("broken"))
    return lambda runtime: executor.run(runtime, world.kind, chunk_id)


def heartbeat(world: World) -> Act:
    claim = claimed(world, world.chunk_ids(started(world))[0])
    lease = world.runtime.settings.lease
    return lambda runtime: transact(runtime.sessions, lambda session: chunks.heartbeat(session, claim, lease=lease))


def conclude_round(world: World) -> Act:
    """The next round of a job, where there is one."""
    ref = started(world)
    for chunk_id in world.chunk_ids(ref):
        finish(world, chunk_id)
    return lambda runtime: submission.conclude(runtime, world.kind, ref.id)


def conclude_job(world: World) -> Act:
    """The end of a job."""
    ref = started(world)
    for _ in range(2 if world.name != "crawl" else 1):  # rounds
        ids = [row[0] for row in query(world.runtime, "SELECT id FROM pixcrawler.chunks WHERE state = 'queued'")]
        if not ids:
            submission.conclude(world.runtime, world.kind, ref.id)
            ids = [row[0] for row in query(world.runtime, "SELECT id FROM pixcrawler.chunks WHERE state = 'queued'")]
        for chunk_id in ids:
            finish(world, chunk_id)
    return lambda runtime: submission.conclude(runtime, world.kind, ref.id)


def cancel(world: World) -> Act:
    ref = half_done(world)
    return lambda runtime: submission.cancel(runtime, world.kind, ref.id)


def drop_chunks(world: World) -> Act:
    """The chunks of a job that an API has ended by writing its row."""
    ref = half_done(world)
    ended_by_row(world, ref)
    return lambda runtime: submission.drop_chunks(runtime, ref)


def retry_cancelled(world: World) -> Act:
    ref = half_done(world)
    submission.cancel(world.runtime, world.kind, ref.id)
    return lambda runtime: submission.retry(runtime, world.kind, ref.id)


def retry_failed(world: World) -> Act:
    ref = started(world)
    first, *others = world.chunk_ids(ref)
    executor.run(world.runtime, raising(world.kind, PermanentError("broken")), first)
    for chunk_id in others:
        executor.run(world.runtime, world.kind, chunk_id)
    world.end()
    return lambda runtime: submission.retry(runtime, world.kind, ref.id)


def expire_lease(world: World) -> Act:
    """What the main process does when a task of one of its children ended badly."""
    claim = claimed(world, world.chunk_ids(started(world))[0])
    ((task_id,),) = query(world.runtime, "SELECT task_id FROM pixcrawler.chunks WHERE id = :id", id=claim.chunk_id)
    return partial(ended_processes.expire_lease, task_id=str(task_id), ended=lambda _: True)


def sweep(world: World) -> Act:
    """A sweep that finds a job for each of its steps, except that no counter is wrong: invariants hold before it."""
    silent, poisonous, lost, undispatched, unconcluded = (started(world) for _ in range(5))
    ended, never_started = half_done(world), world.pending()
    for ref, crashes in ((silent, 0), (poisonous, 1)):
        claim = claimed(world, world.chunk_ids(ref)[0])
        world.execute(
            f"UPDATE pixcrawler.chunks SET lease_until = {_LOST}, crash_count = :crashes, attempt = attempt + :crashes"
            " WHERE id = :id",
            id=claim.chunk_id,
            crashes=crashes,
        )
    key = f"{world.name}_job_id"
    world.execute(f"UPDATE pixcrawler.chunks SET dispatched_at = {_LOST} WHERE {key} = :id", id=lost.id)
    world.execute(f"UPDATE pixcrawler.chunks SET dispatched_at = NULL WHERE {key} = :id", id=undispatched.id)
    for chunk_id in world.chunk_ids(unconcluded):
        finish(world, chunk_id)
    ended_by_row(world, ended)
    request(world, never_started)
    return lambda runtime: sweeper.sweep(runtime, [world.kind])


def clean_up(world: World) -> Act:
    """The database's steps of deleting what ended jobs have left in storage."""
    ended, expired = started(world), started(world)
    submission.cancel(world.runtime, world.kind, ended.id)
    world.run(submission.conclude(world.runtime, world.kind, expired.id))
    world.end()
    folder = world.table if world.name == "crawl" else "exports"
    for ref in (ended, expired):
        world.runtime.run(world.runtime.storage.put(f"{folder}/{ref.id}/cat/orphan.jpg", b"orphan"))
    world.execute(f"UPDATE {world.table} SET completed_at = {_LOST}")
    if world.name == "export":
        world.execute(f"UPDATE export_jobs SET expires_at = {_LOST} WHERE expires_at IS NOT NULL")
    return lambda runtime: world.kind.clean_up(runtime, LIMITS)


def transitions_of(kind: str) -> list[Transition]:
    """Return the transitions that jobs of a kind have."""
    own = {"crawl": [clean_up], "export": [clean_up], "toy": [part]}
    return [*_OF_ALL, *own.get(kind, [])]


_OF_ALL: tuple[Transition, ...] = (
    start,
    reject,
    attempt,
    last_attempt,
    release,
    fail,
    heartbeat,
    conclude_round,
    conclude_job,
    cancel,
    drop_chunks,
    retry_cancelled,
    retry_failed,
    expire_lease,
    sweep,
)


def started(world: World) -> JobRef:
    """A job whose chunks are queued, all of them sent."""
    ref = world.pending()
    submission.start(world.runtime, world.kind, ref.id, world.options)
    return ref


def half_done(world: World) -> JobRef:
    """A job with chunks in every state that a running one can have: the first is completed where there are others."""
    ref = started(world)
    ids = world.chunk_ids(ref)
    if len(ids) > 1:
        executor.run(world.runtime, world.kind, ids[0])
        claimed(world, ids[1])
    else:
        claimed(world, ids[0])
    return ref


def claimed(world: World, chunk_id: int) -> Claim:
    """Claim a chunk."""
    runtime = world.runtime

    def claim(session: Session) -> Claim | None:
        return chunks.claim(session, world.kind.table, chunk_id, owner=owner(chunk_id), lease=runtime.settings.lease)

    found = transact(runtime.sessions, claim)
    assert found is not None
    return found


def finish(world: World, chunk_id: int) -> None:
    """Run a chunk, and conclude nothing: its worker died then."""
    runtime, kind = world.runtime, world.kind
    claim = claimed(world, chunk_id)
    with runtime.sessions.begin() as session:
        work = kind.prepare(runtime, session, claim)
    result = runtime.run(kind.work(runtime, work, LIMITS))
    with runtime.sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.VALID
        report = kind.write(session, work, result)
        chunks.finish(session, claim, result=report.result, gains=report.gains)


def ended_by_row(world: World, ref: JobRef) -> None:
    """Write the status of a job, as an API does that cancels it."""
    status = "cancelled" if world.name == "crawl" else "failed"
    world.execute(
        f"UPDATE {world.table} SET status = '{status}', completed_at = clock_timestamp() WHERE id = :id", id=ref.id
    )


def request(world: World, ref: JobRef) -> None:
    """Record a start whose message was lost long ago."""
    runtime = world.runtime
    if world.name == "toy":  # whose requests are in its own table
        world.execute(f"UPDATE toy_jobs SET requested_at = {_LOST} WHERE id = :id", id=ref.id)
        return
    with runtime.sessions.begin() as session:
        world.kind.record_request(runtime, session, ref, world.options)
    plans, key = f"pixcrawler.{world.name}_plans", f"{world.name}_job_id"
    world.execute(f"INSERT INTO {plans} ({key}) VALUES (:id) ON CONFLICT DO NOTHING", id=ref.id)
    world.execute(f"UPDATE {plans} SET requested_at = {_LOST} WHERE {key} = :id", id=ref.id)

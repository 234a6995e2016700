"""The sweep: what keeps jobs moving when messages, workers and answers get lost.

Every worker sweeps; an advisory lock lets one at a time do each step. All that a step decides is decided by rows, so a
sweep that is killed half-way leaves nothing half done, and the next one goes on.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import activity, chunks, exports, images, jobs, sweeps
from pixcrawler_worker.db.jobs import NotRunningError, Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ChunkState, JobKind, JobRef, JobStatus
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.export import plan, publishing
from pixcrawler_worker.export import planner as exporting
from pixcrawler_worker.runtime import Runtime, local_pid
from pixcrawler_worker.validate import planner as judging

log = structlog.get_logger()

#: Chunks whose workers fell silent, taken back by one sweep.
_MOST_REAPED = 500
#: Messages sent again by one sweep, so that the end of an outage is no storm.
_MOST_RESENT = 500
#: Longest life of a task (its hard time limit) and a margin: after that no zombie writes files any more.
QUIET = timedelta(minutes=20)

_UNKNOWN = (planner.UnknownJobError, judging.UnknownJobError, exporting.UnknownJobError)
_CONCLUDE: Mapping[JobKind, Callable[[Runtime, int], list[Wake]]] = {
    JobKind.CRAWL: planner.conclude,
    JobKind.VALIDATION: judging.conclude,
    JobKind.EXPORT: exporting.conclude,
}
#: Exports that one sweep deletes or signs again.
_MOST_EXPORTS = 200
#: Links are signed again when they work for no longer than this.
_FADING = timedelta(days=1)

_OVER = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(slots=True)
class Swept:
    """What one sweep did, and which chunks to send messages about."""

    wakes: list[tuple[JobKind, Wake]] = field(default_factory=list)
    reaped: int = 0
    dropped: int = 0
    started: int = 0
    resent: int = 0
    concluded: int = 0
    repaired: int = 0

    @property
    def quiet(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.wakes or self.reaped or self.dropped or self.started or self.concluded or self.repaired)


def sweep(runtime: Runtime) -> Swept:
    """Do one sweep and return what it did. Talks to the database only, so it is safe in a process that forks."""
    swept = Swept()
    # First, since counters that somebody wrote over would go below zero with the next chunk that is counted off.
    _repair(runtime, swept)
    _reap(runtime, swept)
    _drop_cancelled(runtime, swept)
    _start(runtime, swept)
    _announce(runtime, swept)
    _resend(runtime, swept)
    _conclude(runtime, swept)
    if not swept.quiet:
        log.info(
            "swept",
            reaped=swept.reaped,
            dropped=swept.dropped,
            started=swept.started,
            resent=swept.resent,
            concluded=swept.concluded,
            repaired=swept.repaired,
            messages=len(swept.wakes),
        )
    return swept


def expire(runtime: Runtime, task_id: str, *, ended: Callable[[int], bool]) -> bool:
    """End the lease of the chunk that a task was running when it ended badly; return whether it held one.

    Args:
        runtime: what connects to the database.
        task_id: the task. Another process may be at another attempt of it by now, which is left alone.
        ended: whether the process of this machine that holds the chunk has ended, or has ended the task.
    """

    def work(session: Session) -> bool:
        owner = chunks.holder(session, task_id)
        pid = None if owner is None else local_pid(owner)
        return owner is not None and pid is not None and ended(pid) and chunks.expire(session, owner)

    return transact(runtime.sessions, work)


def remove_orphans(runtime: Runtime, *, quiet: timedelta = QUIET) -> int:
    """Delete files of ended jobs that no row names, and return how many there were.

    Args:
        runtime: what connects to database and storage.
        quiet: how long a job must have been over, so that no late attempt still writes.
    """
    removed = 0
    for job_id in transact(runtime.sessions, lambda session: sweeps.untidy(session, quiet=quiet)):
        removed += _tidy(runtime, JobRef(JobKind.CRAWL, job_id))
    return removed


def tidy_exports(runtime: Runtime) -> int:
    """Delete the files of exports that have expired, failed or gone, and sign links again that fade.

    Return how many exports lost files.
    """
    expired = transact(runtime.sessions, lambda session: exports.expired(session, limit=_MOST_EXPORTS))
    for job_id in expired:
        # The link goes first: what it leads to must not be gone while a row still offers it.
        transact(runtime.sessions, functools.partial(exports.unlink, job_id=job_id))
    try:
        _sign_again(runtime)
        return runtime.run(_remove_exports(runtime))
    except (TransientError, PermanentError) as error:
        log.warning("files of exports stay for now", reason=str(error))
        return 0


def _sign_again(runtime: Runtime) -> None:
    for one in transact(runtime.sessions, lambda session: exports.fading(session, within=_FADING, limit=_MOST_EXPORTS)):
        asked = transact(runtime.sessions, functools.partial(exports.load, job_id=one.job_id))
        if asked is not None:
            again = publishing.sign_again(runtime, one.job_id, plan.read(asked), one.result, lives=one.lives)
            url, signed = runtime.run(again)
            transact(runtime.sessions, functools.partial(exports.relink, job_id=one.job_id, url=url, signed=signed))


async def _remove_exports(runtime: Runtime) -> int:
    """Delete what no export has any more, and what dead workers left unfinished; return how many exports lost files."""
    found: dict[int, list[str]] = {}
    async for key in runtime.storage.keys(plan.FOLDER):
        number = key.removeprefix(plan.FOLDER).partition("/")[0]
        if number.isdecimal():
            found.setdefault(int(number), []).append(key)
    kept = transact(runtime.sessions, lambda session: exports.files(session, sorted(found)))
    lost = 0
    for job_id, keys in sorted(found.items()):
        names = kept.get(job_id, frozenset())
        stray = [] if names is None else [key for key in keys if key.rpartition("/")[2] not in names]
        if stray:
            await runtime.storage.delete(stray)
            log.info("files of an export removed", job=job_id, files=len(stray))
            lost += 1
    await runtime.storage.abort_uploads(plan.FOLDER, older=QUIET)
    return lost


def _tidy(runtime: Runtime, ref: JobRef) -> int:
    job_id = ref.id

    async def keys() -> list[str]:
        return [key async for key in runtime.storage.keys(f"crawl_jobs/{job_id}/")]

    def orphans(session: Session, found: list[str]) -> list[str]:
        # Somebody may have retried the job meanwhile. While it is over and locked, it can be neither running nor
        # retried, so a file that was there before and has no row now will have none.
        if jobs.lock(session, ref) not in _OVER:
            return []
        named = images.files(session, job_id)
        stray = [key for key in found if runtime.storage.url(key) not in named]
        if not stray:
            sweeps.tidied(session, job_id)
        return stray

    try:
        found = runtime.run(keys())
        stray = transact(runtime.sessions, lambda session: orphans(session, found))
        runtime.run(runtime.storage.delete(stray))
    except (TransientError, PermanentError) as error:
        log.warning("orphans stay for now", job=job_id, reason=str(error))
        return 0
    if stray:
        log.info("orphans removed", job=job_id, files=len(stray))
    return len(stray)


def _reap(runtime: Runtime, swept: Swept) -> None:
    for _ in range(_MOST_REAPED):
        try:
            reaped = transact(runtime.sessions, chunks.reap)
        except NotRunningError:
            continue
        except TransientError as error:
            log.warning("silent workers are left to the next sweep", reason=str(error))
            return
        if reaped is None:
            return
        swept.reaped += 1
        log.warning("chunk taken back from a silent worker", chunk=reaped.chunk_id, job=reaped.job.id)
        if reaped.state is ChunkState.FAILED:
            log.error("chunk failed: its workers fell silent twice", chunk=reaped.chunk_id, job=reaped.job.id)


def _drop_cancelled(runtime: Runtime, swept: Swept) -> None:
    for ref in transact(runtime.sessions, sweeps.cancelled_with_chunks):
        with _left_behind(ref):
            # Whoever wrote the status past us may have written the counters as well.
            _repair_job(runtime, ref, swept)
            swept.dropped += planner.drop_chunks(runtime, ref)


def _start(runtime: Runtime, swept: Swept) -> None:
    unplanned = runtime.settings.start_pending
    patience = runtime.settings.lease / 4

    def work(session: Session) -> list[JobRef]:
        return [
            ref for kind in JobKind for ref in sweeps.pending(session, kind, unplanned=unplanned, patience=patience)
        ]

    for ref in transact(runtime.sessions, work):
        # A job that is unknown was deleted in this very moment.
        with _left_behind(ref), contextlib.suppress(*_UNKNOWN):
            swept.wakes += [(ref.kind, wake) for wake in _start_job(runtime, ref)]
            swept.started += 1


def _start_job(runtime: Runtime, ref: JobRef) -> list[Wake]:
    match ref.kind:
        case JobKind.CRAWL:
            return planner.start(runtime, ref.id, {})
        case JobKind.VALIDATION:
            return judging.start(runtime, ref.id)
        case JobKind.EXPORT:
            return exporting.start(runtime, ref.id)


def _announce(runtime: Runtime, swept: Swept) -> None:
    window = runtime.settings.dispatch_window

    def work(session: Session) -> list[tuple[JobKind, Wake]]:
        if not sweeps.try_lock(session, sweeps.Step.ANNOUNCE):
            return []
        short = chunks.short_of_messages(session, window=window)
        return [(ref.kind, wake) for ref, room in short for wake in chunks.wake_next(session, ref, limit=room)]

    swept.wakes += transact(runtime.sessions, work)


def _resend(runtime: Runtime, swept: Swept) -> None:
    def work(session: Session) -> list[tuple[JobKind, Wake]]:
        if not sweeps.try_lock(session, sweeps.Step.RESEND):
            return []
        return chunks.wake_lost(session, after=runtime.settings.lease, limit=_MOST_RESENT)

    resent = transact(runtime.sessions, work)
    swept.resent += len(resent)
    swept.wakes += resent


def _conclude(runtime: Runtime, swept: Swept) -> None:
    for kind, conclude in _CONCLUDE.items():
        for ref in transact(runtime.sessions, functools.partial(sweeps.unconcluded, kind=kind)):
            with _left_behind(ref):
                swept.wakes += [(kind, wake) for wake in conclude(runtime, ref.id)]
                swept.concluded += 1


def _repair(runtime: Runtime, swept: Swept) -> None:
    for job_id in transact(runtime.sessions, sweeps.drifted):
        ref = JobRef(JobKind.CRAWL, job_id)
        with _left_behind(ref):
            _repair_job(runtime, ref, swept)


@contextlib.contextmanager
def _left_behind(ref: JobRef) -> Iterator[None]:
    """Leave a job to the next sweep when somebody holds its row: the other jobs do not wait for it."""
    try:
        yield
    except TransientError as error:
        log.warning("job left to the next sweep", job=ref.id, kind=ref.kind, reason=str(error))


def _repair_job(runtime: Runtime, ref: JobRef, swept: Swept) -> None:
    def work(session: Session) -> sweeps.Repair | None:
        jobs.lock(session, ref)
        repair = sweeps.repair(session, ref)
        if repair:
            activity.record(session, ref, "repaired", {"was": repair.was, "is": repair.now})
        return repair

    if repair := transact(runtime.sessions, work):
        swept.repaired += 1
        log.error("counters differed from the ledger and were repaired", job=ref.id, was=repair.was, now=repair.now)

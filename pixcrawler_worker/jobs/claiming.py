"""Claiming chunks: that of a message, or one of a job whose turn it is, and further ones beside them."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from pixcrawler_worker import tracing
from pixcrawler_worker.db.ledger import chunks, fairness
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, JobTable, NotRunningError
from pixcrawler_worker.db.session import Session, describe, transact
from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, owner

log = structlog.get_logger()

#: Share of the claims in which the job that ends soonest may be ahead of the others. The rest keeps the others going.
_FAVORED = 0.8


@dataclass(frozen=True, slots=True)
class Turns:
    """How a message may serve another job than the one that it was sent for; see `db/ledger/fairness.py`.

    Attributes:
        kinds: whose chunks the process may run.
        postpone: sends the message again, to the end of its queue. It is called before the work begins.
        send: sends what follows a chunk that ends while others run; None to run no chunk beside another.
    """

    kinds: Sequence[AnyJobKind]
    postpone: Callable[[ChunkMessage], None]
    send: Callable[[Sequence[ChunkMessage]], None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """A chunk that this process has claimed.

    Attributes:
        kind: of its job.
        claim: of the chunk.
        work: what its work needs.
        limits: of this attempt.
        has_message: whether a message of its job was used up for it, or will be, so that the next one may be sent.
        began: when it was claimed, by the monotonic clock.
    """

    kind: AnyJobKind
    claim: Claim
    work: Any
    limits: JobLimits
    has_message: bool = True
    began: float = field(default_factory=time.monotonic)


def claim(  # noqa: PLR0913, PLR0917 - everything that one claim depends on
    runtime: Runtime,
    kind: AnyJobKind,
    chunk_id: int,
    turns: Turns | None,
    limits: JobLimits,
    jitter: Callable[[], float],
    *,
    claimant: str | None = None,
    postpone: Callable[[ChunkMessage], None] = lambda _: None,
) -> Claimed | None:
    """Claim a chunk; None when there is nothing to do.

    When the turns could not be kept, it is tried without them as the same claimant, with what sends the message again:
    the answer to a COMMIT may have been lost.
    """
    kinds = {one.table: one for one in (kind, *(turns.kinds if turns else ()))}
    tables = [one.table for one in turns.kinds] if turns else []
    claimant = claimant or owner(chunk_id)
    favor_short = jitter() < _FAVORED
    held = _held(runtime, kinds)

    def work(session: Session) -> tuple[fairness.Taken, Any]:
        taken = fairness.claim(
            session,
            kind.table,
            chunk_id,
            tables=tables,
            owner=claimant,
            lease=runtime.settings.lease,
            favor_short=favor_short,
            held=held,
        )
        if taken.claim is None:
            return taken, None
        prepared = _prepare(runtime, session, kinds[taken.claim.job.table], taken.claim)
        return (taken, prepared.work) if prepared else (replace(taken, claim=None), None)

    if turns:
        try:
            taken, prepared = transact(runtime.sessions, work)
        except (NotRunningError, OutageError) as error:
            # The job whose turn it is may have been cancelled just now, or its rows are locked.
            log.info("the turns were not kept", kind=kind.table.name, chunk=chunk_id, reason=str(error))
            return claim(runtime, kind, chunk_id, None, limits, jitter, claimant=claimant, postpone=turns.postpone)
        except Exception:
            # Whatever is wrong with it, it must not stop the others.
            log.exception("the turns were not kept", kind=kind.table.name, chunk=chunk_id)
            return claim(runtime, kind, chunk_id, None, limits, jitter, claimant=claimant, postpone=turns.postpone)
        if taken.postponed:
            turns.postpone(taken.postponed)
        return Claimed(kinds[taken.claim.job.table], taken.claim, prepared, limits) if taken.claim else None
    try:
        taken, prepared = transact(runtime.sessions, work, pauses=limits.pauses(jitter))
    except Exception as error:
        if not _is_dropped(error, kind, chunk_id):
            # With no claim there is no lease to expire: uncounted, this would be tried for ever.
            log.exception("chunk could not be claimed", kind=kind.table.name, chunk=chunk_id)
            _count_attempt(runtime, kind, chunk_id, error, limits, jitter)
        return None
    if taken.postponed:
        postpone(taken.postponed)
    return Claimed(kind, taken.claim, prepared, limits) if taken.claim else None


def claim_further(  # noqa: PLR0913, PLR0917 - everything that one claim depends on
    runtime: Runtime,
    turns: Turns,
    named: int,
    beside: Sequence[Claim],
    limits: JobLimits,
    jitter: Callable[[], float],
) -> Claimed | None:
    """Claim a chunk that may run beside others; None when there is none.

    Args:
        runtime: connects to everything.
        turns: the kinds whose chunks the process may run.
        named: the chunk of the message.
        beside: the claims of the chunks that run.
        limits: of the attempt.
        jitter: returns a random number from 0 up to 1.

    Raises:
        NotRunningError, OutageError: when it was not possible now.
    """
    kinds = {kind.table: kind for kind in turns.kinds}
    claimant = owner(named)
    favor_short = jitter() < _FAVORED

    def work(session: Session) -> Claimed | None:
        further = fairness.claim_further(
            session,
            tables=list(kinds),
            overlapping=[table for table, kind in kinds.items() if kind.overlaps],
            beside=beside,
            owner=claimant,
            lease=runtime.settings.lease,
            favor_short=favor_short,
            held=_held(runtime, kinds),
        )
        if further is None:
            return None
        kind = kinds[further.claim.job.table]
        prepared = _prepare(runtime, session, kind, further.claim)
        return None if prepared is None else Claimed(kind, further.claim, prepared.work, limits, further.has_message)

    return transact(runtime.sessions, work)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the work of a chunk needs."""

    work: Any


def _prepare(runtime: Runtime, session: Session, kind: AnyJobKind, claim: Claim) -> _Prepared | None:
    """Return what the work of a chunk needs; None when that says that the chunk fails."""
    try:
        return _Prepared(kind.prepare(runtime, session, claim))
    except PermanentError as error:
        # Another version planned it; the sweep concludes the job. Raised, this would be tried for ever.
        chunks.fail(session, claim, error=str(error))
        return None


def _held(runtime: Runtime, tables: Iterable[JobTable]) -> set[JobRef]:
    """Return the jobs that the settings leave alone."""
    return {table.ref(job_id) for table in tables for job_id in runtime.settings.held(table.name)}


@contextlib.contextmanager
def named(claimed: Claimed) -> Iterator[None]:
    """Name the chunk in log lines and in a span of its own while the context is open."""
    claim, kind = claimed.claim, claimed.kind.table.name
    with (
        structlog.contextvars.bound_contextvars(
            kind=kind, job=claim.job.id, chunk=claim.chunk_id, attempt=claim.attempt
        ),
        tracing.job_span("chunk", kind, claim.job.id) as span,
    ):
        span.set("pixcrawler.chunk.id", claim.chunk_id)
        span.set("pixcrawler.chunk.attempt", claim.attempt)
        yield


def _is_dropped(error: Exception, kind: AnyJobKind, chunk_id: int) -> bool:
    """Return whether an error means that nothing is to be done about a message now, and log it then."""
    if isinstance(error, OutageError):
        log.warning(
            "message dropped: the sweep sends it again", kind=kind.table.name, chunk=chunk_id, reason=str(error)
        )
    elif isinstance(error, NotRunningError):
        log.info("message dropped", kind=kind.table.name, chunk=chunk_id, reason=str(error))
    else:
        return False
    return True


def _count_attempt(  # noqa: PLR0913, PLR0917 - everything that one attempt depends on
    runtime: Runtime,
    kind: AnyJobKind,
    chunk_id: int,
    error: Exception,
    limits: JobLimits,
    jitter: Callable[[], float],
) -> None:
    def work(session: Session) -> None:
        chunks.count_attempt(session, kind.table, chunk_id, error=describe(error), jitter=jitter())

    try:
        transact(runtime.sessions, work, pauses=limits.pauses(jitter))
    except Exception as raised:
        if not _is_dropped(raised, kind, chunk_id):
            log.exception(
                "the attempt could not be counted: the sweep sends the message again",
                kind=kind.table.name,
                chunk=chunk_id,
            )

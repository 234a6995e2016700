"""Ending an attempt: its result, the chunk's end and what follows, in one transaction; or its release."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from pixcrawler_worker.db.ledger import chunks, dispatch, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import (
    ChunkMessage,
    JobTable,
    LimitExceededError,
    NotCountedError,
    NotRunningError,
)
from pixcrawler_worker.db.session import Session, describe, may_pass, transact
from pixcrawler_worker.domain.lifecycle import ChunkOutcome
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.jobs.claiming import Claimed
from pixcrawler_worker.jobs.kind import AnyJobKind, Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, owner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Following:
    """When a process that has ended a chunk takes another one of the job, in the same transaction.

    That saves the way of a message through the broker and back, which costs more than a chunk with little to do.

    Attributes:
        chunk_id: of the message.
        served: the kinds that the process serves: it follows only while no other job of them runs.
        until: by the monotonic clock. After that a message is sent as well: others may have come.
    """

    chunk_id: int
    served: Sequence[JobTable]
    until: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt.

    Attributes:
        outcome: for the job.
        messages: to send next; None when they were not chosen yet.
        follower: the next chunk, claimed in the transaction that has ended the attempt.
    """

    outcome: ChunkOutcome
    messages: list[ChunkMessage] | None = None
    follower: Claimed | None = None


class _NotFollowedError(Exception):
    """What follows an attempt could not be read or written: the attempt is ended without it."""


def finish(  # noqa: PLR0913 - everything that the end of an attempt depends on
    runtime: Runtime,
    claimed: Claimed,
    result: Any,  # noqa: ANN401 - what the kind's work returns
    jitter: Callable[[], float],
    follow: Following | None,
    *,
    sends_next: bool,
) -> tuple[Ended, Report | None]:
    """Write the result, the chunk's end, and what follows, in one transaction.

    Return the end, and the report that was written, if one was.

    Raises:
        NotRunningError: when the result comes too late and is dropped.
    """
    end = _Ending(runtime, claimed, result, follow, sends_next=sends_next)
    while True:
        try:
            return transact(runtime.sessions, end.write, pauses=claimed.limits.pauses(jitter))
        except LimitExceededError:
            # Only a limit that is lowered at this very moment makes a second turn necessary.
            continue
        except NotCountedError:
            # The second turn says why.
            end.commits = False
        except _NotFollowedError as error:
            log.exception("what follows is left to the sweep", exc_info=error.__cause__)
            end.follows = False


class _Ending:
    """The transaction that ends an attempt; it runs again when the answer to its COMMIT is lost.

    Attributes:
        follows: whether the next chunk is claimed, or its message chosen.
        commits: whether the last statement may be committed in the same request.
    """

    def __init__(
        self,
        runtime: Runtime,
        claimed: Claimed,
        result: Any,  # noqa: ANN401 - what the kind's work returns
        follow: Following | None,
        *,
        sends_next: bool,
    ) -> None:
        self.follows = self.commits = True
        self._runtime, self._claimed, self._result = runtime, claimed, result
        self._follow, self._sends_next = follow, sends_next
        self._ended: Ended | None = None
        self._report: Report | None = None

    def write(self, session: Session) -> tuple[Ended, Report | None]:
        """Return the end, and the report that was written, if one was."""
        claim = self._claimed.claim
        match chunks.lock_claim(session, claim):
            case ClaimState.LOST:
                return Ended(ChunkOutcome.LOST), None
            case ClaimState.FINISHED:
                # By the transaction before, whose answer was lost.
                if self._ended is None:
                    open_chunks = jobs.counters(session, claim.job).open
                    self._ended = Ended(ChunkOutcome.CONTINUES if open_chunks else ChunkOutcome.JOB_FINISHED)
                return self._ended, self._report
            case ClaimState.VALID:
                self._report = self._claimed.kind.write(session, self._claimed.work, self._result)
                return self._end(session, claim, self._report), self._report

    def _end(self, session: Session, claim: Claim, report: Report) -> Ended:
        # Read before the row of the job is locked: the other processes wait for that.
        following = self._claim_next(session, report)
        if following is None:
            self._ended = self._with_message(session, _complete(session, claim, report))
        elif following.error is None:
            # Noted before the COMMIT, whose answer may be lost.
            kind, limits = self._claimed.kind, self._claimed.limits
            self._ended = Ended(ChunkOutcome.CONTINUES, [], Claimed(kind, following.claim, following.work, limits))
            chunks.finish_with_next(session, claim, result=report.result, gains=report.gains, commits=self.commits)
        else:
            chunks.finish_with_next(session, claim, result=report.result, gains=report.gains, commits=False)
            with _following():
                outcome = chunks.fail(session, following.claim, error=str(following.error))
            self._ended = self._with_message(session, outcome)
        return self._ended

    def _claim_next(self, session: Session, report: Report) -> "_Next | None":
        """Claim the chunk that follows, if one does."""
        follow = self._follow
        if not follow or not self.follows or report.rest is not None or time.monotonic() >= follow.until:
            return None
        with _following():
            follower = chunks.claim_next(
                session,
                self._claimed.claim.job,
                served=follow.served,
                owner=owner(follow.chunk_id),
                lease=self._runtime.settings.lease,
                gains=report.gains,
            )
            if follower is None:
                return None
            try:
                return _Next(follower, self._claimed.kind.prepare(self._runtime, session, follower))
            except PermanentError as error:
                # Another version planned it.
                return _Next(follower, None, error)

    def _with_message(self, session: Session, outcome: ChunkOutcome) -> Ended:
        """Return an end after which no chunk follows at once, with the message for the next one."""
        if outcome is not ChunkOutcome.CONTINUES:
            return Ended(outcome)
        with _following():
            sends = self.follows and self._sends_next
            return Ended(outcome, dispatch.next_due(session, self._claimed.claim.job, limit=1) if sends else [])


class _Next(NamedTuple):
    """A chunk that was claimed for the time after another one: what its work needs, or why it fails."""

    claim: Claim
    work: Any
    error: PermanentError | None = None


@contextlib.contextmanager
def _following() -> Iterator[None]:
    """Raise `_NotFollowedError` for what is wrong with the next chunk: this one has nothing to do with it."""
    try:
        yield
    except Exception as error:
        if may_pass(error):
            raise
        raise _NotFollowedError from error


def _complete(session: Session, claim: Claim, report: Report) -> ChunkOutcome:
    """Complete the chunk, or queue it again for the rest of its work."""
    if report.rest is None:
        return chunks.finish(session, claim, result=report.result, gains=report.gains)
    rest = report.rest
    return chunks.put_back(
        session,
        claim,
        result=report.result,
        gains=report.gains,
        payload=rest.payload,
        delay=rest.delay,
        progressed=rest.progressed,
    )


def close(
    runtime: Runtime, claim: Claim, error: Exception, limits: JobLimits, jitter: Callable[[], float]
) -> ChunkOutcome:
    """Release the chunk, or fail it; when even that cannot be written, its lease expires."""

    def end(session: Session) -> ChunkOutcome:
        match error:
            case PermanentError():
                return chunks.fail(session, claim, error=str(error))
            case OutageError():
                return chunks.release(session, claim, error=str(error), outage=True, jitter=jitter())
            case TransientError():
                return chunks.release(session, claim, error=str(error), retry_after=error.retry_after, jitter=jitter())
            case _:
                return chunks.release(session, claim, error=describe(error), jitter=jitter())

    try:
        return transact(runtime.sessions, end, pauses=limits.pauses(jitter))
    except NotRunningError:
        pass
    except OutageError as outage:
        log.warning("the chunk could not be released: the sweep does it", reason=str(outage))
    except Exception:
        log.exception("the chunk could not be released: the sweep does it")
    return ChunkOutcome.LOST


def next_messages(runtime: Runtime, kind: AnyJobKind, claim: Claim, ended: Ended) -> list[ChunkMessage]:
    """Return what follows for the job. What cannot be done now is left to the sweep."""
    job = claim.job
    try:
        match ended.outcome:
            case ChunkOutcome.LOST:
                log.info("result dropped: the claim is lost, or the job does not run")
                return []
            case ChunkOutcome.JOB_FINISHED:
                return submission.conclude(runtime, kind, job.id)
            case ChunkOutcome.CONTINUES if ended.messages is not None:
                return ended.messages
            case ChunkOutcome.CONTINUES:
                return transact(runtime.sessions, lambda session: dispatch.next_due(session, job, limit=1))
    except TransientError as error:
        log.warning("what follows is left to the sweep", reason=str(error))
    except Exception:
        log.exception("what follows is left to the sweep")
    return []

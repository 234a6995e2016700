"""When a chunk is tried again: backoff, deferral, jitter and their limits. Time and randomness are handed in."""

from dataclasses import dataclass
from datetime import timedelta

#: Attempts that one chunk gets in one generation, whatever ended them, deferrals left out.
MAX_ATTEMPTS = 5
#: Attempts that one chunk gets in one generation, deferrals included: a host that only ever defers ends here.
MAX_ATTEMPTS_WITH_DEFERRALS = 60
#: A Retry-After above this fails the chunk: the job goes on with other sources, or ends and says why.
MAX_RETRY_AFTER = timedelta(minutes=15)

_FIRST_DELAY = timedelta(seconds=5)
_BACKOFF_FACTOR = 4
_MAX_DELAY = timedelta(minutes=15)
#: Exponents beyond this are above `_MAX_DELAY` anyway, and a timedelta has an upper bound.
_MAX_EXPONENT = 10
_MIN_DEFERRAL = timedelta(seconds=1)
#: Delays of a chunk that met an outage double from the first to the largest: 60 attempts cover an hour and a half.
_FIRST_OUTAGE_DELAY, _MAX_OUTAGE_DELAY = timedelta(seconds=1), timedelta(minutes=2)
#: Share of a backoff that jitter adds at most.
_BACKOFF_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Retry:
    """A chunk is tried again.

    Attributes:
        delay: time until then.
        max_attempts: attempts that the chunk may have from now on.
    """

    delay: timedelta
    max_attempts: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A chunk is not tried again; `reason` completes the error, empty when the error says enough."""

    reason: str = ""


def after_transient_error(
    *, attempt: int, max_attempts: int, retry_after: timedelta | None, jitter: float
) -> Retry | GiveUp:
    """Return what follows when an attempt met a transient error.

    Args:
        attempt: number of the attempt, from 1.
        max_attempts: attempts that the chunk may have.
        retry_after: the other side's Retry-After; None when it sent none. A deferral costs no attempt.
        jitter: random, from 0 up to 1, so that chunks that met the same trouble do not come back in step: a backoff
            becomes up to a quarter longer, a deferral up to twice as long.
    """
    if retry_after is None:
        if attempt >= max_attempts:
            return GiveUp()
        counted = counted_attempt(attempt=attempt, max_attempts=max_attempts)
        return Retry(backoff(counted) * (1 + jitter * _BACKOFF_JITTER), max_attempts)
    allowed = _with_deferral(max_attempts)
    if attempt >= allowed:
        return GiveUp()
    if retry_after > MAX_RETRY_AFTER:
        return GiveUp(f"more than the {MAX_RETRY_AFTER.total_seconds():.0f} s that a chunk waits; retry the job then")
    return Retry(max(retry_after, _MIN_DEFERRAL) * (1 + jitter), allowed)


def after_outage(*, attempt: int, max_attempts: int, jitter: float) -> Retry | GiveUp:
    """Return what follows when an attempt met an outage of the database or of the storage: a deferral.

    It costs no attempt, whatever the chunk met before. The delay doubles with each deferral, from a second up to two
    minutes, and jitter makes it up to twice as long.

    Args:
        attempt: number of the attempt, from 1.
        max_attempts: attempts that the chunk may have.
        jitter: random, from 0 up to 1.
    """
    allowed = _with_deferral(max_attempts)
    if attempt >= allowed:
        return GiveUp(f"the chunk has waited for that {MAX_ATTEMPTS_WITH_DEFERRALS - MAX_ATTEMPTS} times")
    deferrals = min(max(max_attempts - MAX_ATTEMPTS, 0), _MAX_EXPONENT)
    delay = min(_FIRST_OUTAGE_DELAY * 2**deferrals, _MAX_OUTAGE_DELAY)
    return Retry(delay * (1 + jitter), allowed)


def after_part(*, attempt: int, max_attempts: int, progressed: bool) -> tuple[int, int]:
    """Return attempts and allowed attempts of a chunk that is queued again for the rest of its work.

    After an attempt that got further, attempts count from 0. One that did not is a deferral; a
    chunk that may not be deferred once more has to do without its rest, see `may_defer`.

    Args:
        attempt: number of the attempt, from 1.
        max_attempts: attempts that the chunk may have.
        progressed: whether the attempt has brought the chunk further.
    """
    return (0, MAX_ATTEMPTS) if progressed else (attempt, _with_deferral(max_attempts))


def may_defer(attempt: int) -> bool:
    """Return whether a chunk may be queued again after the n-th attempt, if that brought it no further."""
    return attempt < MAX_ATTEMPTS_WITH_DEFERRALS


def counted_attempt(*, attempt: int, max_attempts: int) -> int:
    """Return the number of an attempt, from 1, without those that ended with a deferral."""
    return max(1, attempt - max(0, max_attempts - MAX_ATTEMPTS))


def _with_deferral(max_attempts: int) -> int:
    """Return the attempts that a chunk may have after one more deferral."""
    return min(max_attempts + 1, MAX_ATTEMPTS_WITH_DEFERRALS)


def backoff(attempt: int) -> timedelta:
    """Return the delay after the n-th attempt, without jitter: 5 s, then four times as long each time, up to 15 min."""
    factor: int = _BACKOFF_FACTOR ** min(attempt - 1, _MAX_EXPONENT)
    return min(_FIRST_DELAY * factor, _MAX_DELAY)

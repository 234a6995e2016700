"""The end of an attempt at a chunk: one line in the log, and the counts of metrics."""

import heapq
import time
from collections.abc import Mapping
from enum import StrEnum

import structlog

from pixcrawler_worker import metrics, tracing
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs.kind import Report, Tally
from pixcrawler_worker.tracing import Span

log = structlog.get_logger()

#: Hosts and reasons in a line.
_MAX_HOSTS, _MAX_REASONS = 3, 5
#: Outcomes that make no image.
_UNWANTED = ("rejected", "invalid", "skipped")
#: Share of the candidates that, rejected, make the line a warning, and the candidates from which on it does.
_MOST, _MIN_REJECTED = 0.5, 3


class End(StrEnum):
    """How an attempt ended, as metrics name it."""

    COMPLETED = "completed"
    CONTINUED = "continued"
    RELEASED = "released"
    FAILED = "failed"
    LOST = "lost"


def ended(kind: str, end: End, *, began: float, report: Report | None = None, error: Exception | None = None) -> None:
    """Log, count and trace the end of an attempt. Whatever is wrong with that changes nothing about the attempt.

    Args:
        kind: of the job. The log has it already, with the ids of job and chunk.
        end: how it ended.
        began: when, by the monotonic clock.
        report: what it has brought and written.
        error: why it brought nothing.
    """
    seconds = time.monotonic() - began
    try:
        tally = report.tally if report else Tally()
        _count(kind, end, seconds, tally)
        _log(round(seconds, 2), report, error)
        _trace(tracing.current(), end, tally, error)
    except Exception:
        log.exception("the end of an attempt could not be counted")


def _log(seconds: float, report: Report | None, error: Exception | None) -> None:
    match error:
        case None:
            _log_report(report, seconds)
        case PermanentError():
            log.warning("chunk failed", reason=str(error), seconds=seconds)
        case TransientError():
            log.warning("chunk released", reason=str(error), outage=isinstance(error, OutageError), seconds=seconds)
        case _:
            log.error(
                "chunk released after an unexpected error", reason=describe(error), seconds=seconds, exc_info=error
            )


def _count(kind: str, end: End, seconds: float, tally: Tally) -> None:
    metrics.CHUNK_ATTEMPTS.add(kind, end.value)
    metrics.CHUNK_SECONDS.add(kind, amount=seconds)
    for outcome, count in tally.outcomes.items():
        if count:
            metrics.IMAGES.add(kind, outcome, amount=count)
    for reason, count in tally.rejected.items():
        if count:
            metrics.REJECTIONS.add(kind, str(reason), amount=count)
    if tally.bytes:
        metrics.BYTES.add(kind, amount=tally.bytes)


def _trace(span: Span, end: End, tally: Tally, error: Exception | None) -> None:
    span.set("pixcrawler.chunk.outcome", end.value)
    for outcome, count in tally.outcomes.items():
        span.set(f"pixcrawler.images.{outcome}", count)
    if tally.bytes:
        span.set("pixcrawler.bytes", tally.bytes)
    for number, (host, seconds) in enumerate(_largest(tally.hosts, _MAX_HOSTS).items(), start=1):
        span.set(f"pixcrawler.slowest_host.{number}", host)
        span.set(f"pixcrawler.slowest_host.{number}.seconds", round(seconds, 2))
    if error is not None:
        span.fail(type(error).__name__, describe(error))


def _log_report(report: Report | None, seconds: float) -> None:
    if report is None:
        # The line about the lost claim follows.
        return
    tally = report.tally
    fields: dict[str, object] = {"seconds": seconds, **{name: count for name, count in tally.outcomes.items() if count}}
    if tally.bytes:
        fields["bytes"] = tally.bytes
    if reasons := _largest(tally.rejected, _MAX_REASONS):
        fields["reasons"] = {str(name): int(count) for name, count in reasons.items()}
    if hosts := _largest(tally.hosts, _MAX_HOSTS):
        fields["slowest_hosts"] = {host: round(spent, 2) for host, spent in hosts.items()}
    if waiting := _largest(tally.waiting, _MAX_HOSTS):
        fields["waiting_for"] = {host: int(count) for host, count in waiting.items()}
    if report.rest:
        fields["delay"] = report.rest.delay.total_seconds()
    event = "chunk put back with the rest of its work" if report.rest else "chunk completed"
    rejected = sum(tally.outcomes.get(outcome, 0) for outcome in _UNWANTED)
    if reasons and rejected >= _MIN_REJECTED and rejected > _MOST * sum(tally.outcomes.values()):
        log.warning(event, why="most of it was rejected", top_reason=str(next(iter(reasons))), **fields)
    else:
        log.info(event, **fields)


def _largest(values: Mapping[str, float], limit: int) -> dict[str, float]:
    """Return the largest values, the largest first."""
    if not values:
        return {}
    return dict(heapq.nlargest(limit, filter(_value, values.items()), key=_value))


def _value(item: tuple[str, float]) -> float:
    return item[1]

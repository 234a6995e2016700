"""The numbers of the service that metrics show: rows, queues, ids and workers, read when they are asked for.

Asking often costs little: what was read is fresh for some seconds, and for longer when it took long, so that reading
takes no more than a twentieth of the time. One request reads at a time.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pixcrawler_worker.broker import load, quarantine, workers
from pixcrawler_worker.broker.fork_gate import FORK_GATE
from pixcrawler_worker.db import job_counts, session, sizes
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.domain.messages import Queue
from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.metrics import Reading
from pixcrawler_worker.settings import Settings

log = structlog.get_logger()

#: Seconds for which what was read is fresh, at least and at most, and by how many times longer than reading took.
_FRESH, _MAX_FRESH, _TIMES = 5.0, 300.0, 20
#: The same for what changes slowly, or is asked of all workers.
_SLOWLY = 60.0
#: Seconds that a request waits for another one that reads; after that it gets what was read before.
_PATIENCE = 5.0


@dataclass(slots=True)
class _Part:
    """A part of the state that is read at once.

    Attributes:
        read: returns its readings, or raises a `WorkerError`.
        fresh: seconds for which they are fresh, at least.
        readings: the last ones; none when they could not be read.
        until: when they are not fresh any more, by the monotonic clock.
        seconds: that reading took.
        failed: whether they could not be read.
    """

    read: Callable[[], Sequence[Reading]]
    fresh: float
    readings: Sequence[Reading] = ()
    until: float = -1.0
    seconds: float = 0.0
    failed: bool = False


class MonitoredState:
    """Reads the state for the endpoint of metrics.

    Args:
        settings: of the process.
        tables: of the kinds of jobs.
        ask_workers: whether workers are asked for their queues, which takes a second or three.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Collection[JobTable],
        *,
        ask_workers: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._settings = settings
        self._parts = {
            "jobs": _Part(self._jobs, _FRESH),
            "ids": _Part(self._ids, _SLOWLY),
            "redis": _Part(self._redis, _FRESH),
        }
        if ask_workers:
            self._parts["workers"] = _Part(self._workers, _SLOWLY)
        self._reading = threading.Lock()

    def readings(self) -> Iterable[Reading]:
        """Return the state, some seconds old. What cannot be read is left out, and `state_read_failed` says so."""
        if self._reading.acquire(timeout=_PATIENCE):
            try:
                for name, part in self._parts.items():
                    if self._clock() >= part.until:
                        with FORK_GATE.work():
                            self._refresh(name, part)
            finally:
                self._reading.release()
        parts = dict(self._parts)
        return [
            *(reading for part in parts.values() for reading in part.readings),
            _by("state_read_failed", "Whether a part of the state could not be read", "part", _failed(parts)),
            _by("state_read_seconds", "Seconds that reading a part of the state took", "part", _seconds(parts)),
        ]

    def _refresh(self, name: str, part: _Part) -> None:
        began = self._clock()
        try:
            part.readings, failed = part.read(), False
        except WorkerError as error:
            part.readings, failed = (), True
            if not part.failed:
                log.warning("metrics cannot be read", part=name, reason=str(error))
        except Exception:
            part.readings, failed = (), True
            log.exception("metrics cannot be read", part=name)
        part.failed = failed
        part.seconds = self._clock() - began
        part.until = self._clock() + min(max(part.fresh, _TIMES * part.seconds), _MAX_FRESH)

    def _jobs(self) -> Sequence[Reading]:
        # No connection stays open: there may be many workers, and few connections.
        engine = session.connect(self._settings.require_database(), pool_size=1)
        try:
            found = job_counts.read(engine, self._tables)
        finally:
            engine.dispose()
        expired: dict[tuple[str, ...], float] = {} if found.oldest_expired is None else {(): found.oldest_expired}
        return [
            Reading("jobs", "Jobs by status", ("kind", "state"), found.jobs),
            Reading("chunks", "Chunks that have not ended, by state", ("kind", "state"), found.chunks),
            _by("oldest_pending_job_seconds", "Age of the oldest pending job", "kind", found.oldest_pending),
            _by(
                "oldest_queued_chunk_seconds",
                "Time for which the oldest queued chunk has been due",
                "kind",
                found.oldest_queued,
            ),
            Reading("oldest_expired_lease_seconds", "Time since a lease expired that no sweep took back", (), expired),
            Reading("state_left_out", "Numbers that took too long to read", (), {(): len(found.left_out)}),
        ]

    def _ids(self) -> Sequence[Reading]:
        engine = session.connect(self._settings.require_database(), pool_size=1)
        try:
            used = {one.column: one.used for one in sizes.ids(engine)}
        finally:
            engine.dispose()
        return [_by("ids_used_ratio", "Share of the ids that a column has used, 0 to 1", "column", used)]

    def _redis(self) -> Sequence[Reading]:
        found = load.read(self._settings.require_broker())
        limit: dict[tuple[str, ...], float] = {} if found.max_memory is None else {(): found.max_memory}
        return [
            _by("queue_messages", "Messages that wait in a queue", "queue", found.messages),
            Reading("quarantined_messages", "Unreadable messages that are set aside", (), {(): found.quarantined}),
            Reading("quarantine_max_messages", "Messages that are kept, at most", (), {(): quarantine.MAX_ENTRIES}),
            Reading("redis_memory_bytes", "Bytes that Redis uses", (), {(): found.memory}),
            Reading("redis_max_memory_bytes", "Bytes that Redis may use; missing without a limit", (), limit),
            _by("hosts_closed", "Hosts that all workers leave alone now", "cause", found.closed_hosts),
        ]

    def _workers(self) -> Sequence[Reading]:
        consumed = workers.consumed_queues(self._settings.require_broker())
        consumers = {queue.value: sum(queue.value in names for names in consumed.values()) for queue in Queue}
        return [_by("queue_consumers", "Workers that consume a queue", "queue", consumers)]


def _by(name: str, help_: str, label: str, values: Mapping[str, float]) -> Reading:
    return Reading(name, help_, (label,), {(key,): value for key, value in values.items()})


def _failed(parts: Mapping[str, _Part]) -> Mapping[str, float]:
    return {name: float(part.failed) for name, part in parts.items()}


def _seconds(parts: Mapping[str, _Part]) -> Mapping[str, float]:
    return {name: part.seconds for name, part in parts.items()}

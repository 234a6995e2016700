"""Prometheus metrics: what workers count, and what is read of the service when it is asked for.

A worker's main process serves both when `PIXCRAWLER_METRICS_PORT` is set, `pixcrawler metrics` the second. Child
processes send what they count to the main process, see `collect`. Labels are names of the code and of the settings
(kinds, steps, reasons, sources), never what a row or a message holds, and no metric gets more than `MAX_SERIES` series.
"""

import contextlib
import json
import math
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger()

#: Series of one metric. What has more labels, for example findings of many classifiers, is counted as `OTHER`.
MAX_SERIES = 200
OTHER = "other"
#: All addresses of the machine: Prometheus runs on another one, or in another container.
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - see above
#: Series that a child sends at once, and bytes that the main process reads.
_BATCH, _MAX_BYTES = 40, 65_536


class Events(Counter):
    """A counter that child processes count with, too. Use `add`."""

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count what happened `amount` times, or so many seconds or bytes, with these values of the labels.

        A child never waits for its main process: what that does not take at once is sent with the next count.
        """
        if _children.sender is not None:
            _children.sender.send(self._name, labels, amount)
        else:
            self.count(labels, amount)

    def count(self, labels: tuple[str, ...], amount: float) -> None:
        """Count in this process."""
        if not self._labelnames:
            self.inc(amount)
            return
        # The lock of the parent class is not needed: a few series more than the limit do no harm.
        if labels not in self._metrics and len(self._metrics) >= MAX_SERIES:
            labels = (*labels[:-1], OTHER)
        self.labels(*labels).inc(amount)


#: Rows that a step of the sweep could not process, and steps whose own query failed, by kind of job and step.
SWEEP_ERRORS = Events(
    "pixcrawler_sweep_errors", "Rows and queries that a step of the sweep failed at", ["kind", "step"]
)
SWEEPS = Events("pixcrawler_sweeps", "Sweeps that came to their end")
LAST_SWEEP = Gauge(
    "pixcrawler_last_sweep_timestamp_seconds", "When the last sweep of this worker ended, or when it started"
)
CHUNKS_REAPED = Events("pixcrawler_chunks_reaped", "Chunks whose lease expired", ["kind"])
COUNTERS_REPAIRED = Events("pixcrawler_counters_repaired", "Jobs whose counters differed from the ledger", ["kind"])
#: `reason` is one of a fixed set of words that say what was unreadable.
MESSAGES_QUARANTINED = Events(
    "pixcrawler_messages_quarantined", "Messages that could not be read and were set aside", ["reason"]
)
#: Bugs that single candidates, images and exported files met, see `jobs/internal_errors.py`.
INTERNAL_ERRORS = Events(
    "pixcrawler_internal_errors", "Candidates and images that met a bug of the worker or of a plug-in", ["kind"]
)
CHUNK_ATTEMPTS = Events("pixcrawler_chunk_attempts", "Attempts at chunks that ended", ["kind", "outcome"])
CHUNK_SECONDS = Events("pixcrawler_chunk_attempt_seconds", "Seconds that attempts at chunks took", ["kind"])
IMAGES = Events(
    "pixcrawler_images", "Candidates and images that were processed, by what became of them", ["kind", "outcome"]
)
REJECTIONS = Events(
    "pixcrawler_rejections", "Why candidates and images were rejected, or what was found", ["kind", "reason"]
)
BYTES = Events("pixcrawler_bytes", "Bytes downloaded by crawls, read by validations, written by exports", ["kind"])
DECODER_DEATHS = Events("pixcrawler_decoder_deaths", "Decode processes that died at an image", ["cause"])
#: `host` is one with a limit of its own in the settings, or `OTHER`.
REQUESTS_LIMITED = Events(
    "pixcrawler_requests_limited", "Responses that ask for fewer requests, such as 429", ["source", "host"]
)
HOST_CLOSINGS = Events("pixcrawler_host_closings", "Times that a host was closed for a while", ["cause"])
DATABASE_ERRORS = Events("pixcrawler_database_errors", "Transactions that the database did not let succeed", ["cause"])
STORAGE_ERRORS = Events("pixcrawler_storage_errors", "Operations that the storage failed at")

_EVENTS: Mapping[str, Events] = {
    one._name: one  # noqa: SLF001 - of the class above
    for one in list(globals().values())
    if isinstance(one, Events)
}

_NO_SOURCE = "none"
#: The source whose requests this task sends, for `REQUESTS_LIMITED`.
_source: ContextVar[str] = ContextVar("source", default=_NO_SOURCE)


def set_source(name: str) -> None:
    """Note that the requests of this task, and of those that it starts, are for an installed source."""
    _source.set(name)


def count_limited(host: str) -> None:
    """Count a response that asks for fewer requests.

    Args:
        host: see `REQUESTS_LIMITED`.
    """
    REQUESTS_LIMITED.add(_source.get(), host)


def count_internal_error(kind: str) -> None:
    """Count a bug that one candidate or image of a kind of job met."""
    INTERNAL_ERRORS.add(kind)


def prepare(kinds: Iterable[str], *, steps: Collection[str], faults: Iterable[str]) -> None:
    """Serve what alerts and panels watch from the beginning, as zero: Prometheus does not see the first of others.

    Args:
        kinds: of jobs.
        steps: of a sweep.
        faults: of messages that are set aside.
    """
    for fault in faults:
        MESSAGES_QUARANTINED.labels(fault)
    for kind in kinds:
        for step in steps:
            SWEEP_ERRORS.labels(kind, step)
        for counter in (CHUNKS_REAPED, COUNTERS_REPAIRED, INTERNAL_ERRORS, BYTES, CHUNK_SECONDS):
            counter.labels(kind)
    for cause in ("crash", "killed", "timeout", "answer"):
        DECODER_DEATHS.labels(cause)
    for cause in ("connection", "timeout", "resources", "conflict", OTHER):
        DATABASE_ERRORS.labels(cause)
    for cause in ("limited", "down"):
        HOST_CLOSINGS.labels(cause)
    REQUESTS_LIMITED.labels(_NO_SOURCE, OTHER)
    # The first sweep is due soon. At zero, a worker that waits for its database seems not to have swept since 1970.
    LAST_SWEEP.set_to_current_time()


@dataclass(slots=True)
class _Sender:
    """The way from a child process to its main process, with the counts that are not sent yet."""

    socket: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)
    pending: defaultdict[tuple[str, tuple[str, ...]], float] = field(default_factory=lambda: defaultdict(float))

    def send(self, name: str, labels: tuple[str, ...], amount: float) -> None:
        with self.lock:
            self.pending[name, labels] += amount
            with contextlib.suppress(OSError):
                while self.pending:
                    batch = list(self.pending)[:_BATCH]
                    self.socket.send(json.dumps([[*key, self.pending[key]] for key in batch]).encode())
                    for key in batch:
                        del self.pending[key]


@dataclass(slots=True)
class _Children:
    """What this process sends its counts through; None when it is not a child."""

    sender: _Sender | None = None


_children = _Children()


def collect() -> None:
    """Have the child processes that are forked from now on send what they count to this process."""
    receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sending.setblocking(False)

    def become_child() -> None:
        receiving.close()
        _children.sender = _Sender(sending)

    os.register_at_fork(after_in_child=become_child)
    threading.Thread(target=_receive, args=(receiving,), name="metrics of children", daemon=True).start()


def _receive(receiving: socket.socket) -> None:
    while True:
        for name, labels, amount in json.loads(receiving.recv(_MAX_BYTES)):
            _EVENTS[name].count(tuple(labels), amount)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number of the service, or several by labels, at this moment.

    Attributes:
        name: of the metric, without `pixcrawler_`.
        help: what it is, in one line.
        labels: their names.
        values: by the values of the labels.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


class _Served(Collector):
    """What one endpoint serves."""

    def __init__(self, readings: Callable[[], Iterable[Reading]] | None, *, events: bool) -> None:
        self._readings = readings
        self._events = events

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        if self._events:
            yield from REGISTRY.collect()
        for reading in self._readings() if self._readings else ():
            family = GaugeMetricFamily(f"pixcrawler_{reading.name}", reading.help, labels=reading.labels)
            for labels, value in reading.values.items():
                if math.isfinite(value):
                    family.add_metric(labels, value)
            yield family


def serve(
    port: int,
    *,
    address: str = ANY_ADDRESS,
    readings: Callable[[], Iterable[Reading]] | None = None,
    events: bool = True,
) -> bool:
    """Serve metrics at `/metrics`, in a thread; return whether the port was free.

    A port that is taken, for example by another worker, is logged: metrics never keep a worker from its work.

    Args:
        port: of TCP; 0 for any.
        address: of this machine.
        readings: returns the numbers of the service; called for each request, in its thread.
        events: whether what this process and its children have counted is served.
    """
    registry = CollectorRegistry()
    registry.register(_Served(readings, events=events))
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        log.error("metrics are not served", port=port, reason=str(error))  # noqa: TRY400 - the reason is all there is
        return False
    # A child that outlives the main process would keep the port from the next one.
    os.register_at_fork(after_in_child=server.socket.close)
    log.info("metrics are served", port=server.server_port)
    return True

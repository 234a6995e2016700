"""Prometheus counters of a worker, which its main process serves when `PIXCRAWLER_METRICS_PORT` is set.

Child processes send it what they count, see `collect`. Labels are names of the code (kinds, steps, reasons), never what
a row or a message holds, so that no input can add series without end.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Mapping

import structlog
from prometheus_client import Counter, start_http_server

log = structlog.get_logger()

#: Rows that a step of the sweep could not process, and steps whose own query failed, by kind of job and step.
SWEEP_ERRORS = Counter(
    "pixcrawler_sweep_errors", "Rows and queries that a step of the sweep failed at", ["kind", "step"]
)
CHUNKS_REAPED = Counter("pixcrawler_chunks_reaped", "Chunks whose lease expired", ["kind"])
COUNTERS_REPAIRED = Counter("pixcrawler_counters_repaired", "Jobs whose counters differed from the ledger", ["kind"])
#: `reason` is one of a fixed set of words that say what was unreadable.
MESSAGES_QUARANTINED = Counter(
    "pixcrawler_messages_quarantined", "Messages that could not be read and were set aside", ["reason"]
)

#: Bugs that single candidates, images and exported files met, see `jobs/internal_errors.py`.
INTERNAL_ERRORS = Counter(
    "pixcrawler_internal_errors", "Candidates and images that met a bug of the worker or of a plug-in", ["kind"]
)

#: What child processes count.
_BY_NAME: Mapping[str, Counter] = {"internal_errors": INTERNAL_ERRORS}
#: Bytes of what a child sends at once.
_MAX_BYTES = 1000


class _Child:
    """What a child process sends its counts through; None in all other processes."""

    counts: socket.socket | None = None


def collect() -> None:
    """Have the child processes that are forked from now on send what they count to this process."""
    receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sending.setblocking(False)

    def become_child() -> None:
        receiving.close()
        _Child.counts = sending

    os.register_at_fork(after_in_child=become_child)
    threading.Thread(target=_receive, args=(receiving,), name="metrics of children", daemon=True).start()


def count_internal_error(kind: str) -> None:
    """Count a bug that one candidate or image of a kind of job met.

    A child never waits for its main process: what that does not take at once is not counted.
    """
    if _Child.counts is None:
        INTERNAL_ERRORS.labels(kind).inc()
        return
    with contextlib.suppress(OSError):
        _Child.counts.send(json.dumps(["internal_errors", kind]).encode())


def _receive(receiving: socket.socket) -> None:
    while True:
        name, *labels = json.loads(receiving.recv(_MAX_BYTES))
        _BY_NAME[name].labels(*labels).inc()


def serve(port: int) -> bool:
    """Serve the metrics of this process on all addresses of the machine; return whether the port was free.

    A port that is taken, for example by another worker, is logged: metrics never keep a worker from its work.
    """
    try:
        server, _ = start_http_server(port)
    except OSError as error:
        log.error("metrics are not served", port=port, reason=str(error))  # noqa: TRY400 - the reason is all there is
        return False
    # A child that outlives the main process would keep the port from the next one.
    os.register_at_fork(after_in_child=server.socket.close)
    log.info("metrics are served", port=server.server_port)
    return True

"""Prometheus counters of a worker's main process, which serves them when `PIXCRAWLER_METRICS_PORT` is set.

Child processes do not serve theirs: what the main process does not do itself is counted in the database and in the
logs. Labels are names of the code (kinds, steps, reasons), never what a row or a message holds, so that no input can
add series without end.
"""

import os

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

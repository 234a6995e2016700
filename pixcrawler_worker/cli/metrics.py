"""`pixcrawler metrics`."""

import signal
import sys
import threading
from typing import NoReturn

import click

from pixcrawler_worker import logs, metrics
from pixcrawler_worker.cli import environment
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.monitored_state import MonitoredState
from pixcrawler_worker.registry import JOB_KINDS

#: The port by default: next to that of a worker in the documentation.
_PORT = 9401


@click.command("metrics")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address of this machine to serve on.")
@click.option("--port", type=click.IntRange(1, 65_535), default=_PORT, show_default=True, help="TCP port.")
def serve_metrics(*, address: str, port: int) -> None:
    """Serve the state of jobs, queues, ids and workers for Prometheus, at /metrics, until it is interrupted.

    One for all workers is enough. What a worker does, it counts itself: see PIXCRAWLER_METRICS_PORT. Numbers are some
    seconds old, so that asking often does no harm.
    """
    settings = environment.load_settings()
    settings.require_database()
    settings.require_broker()
    state = MonitoredState(settings, [kind.table for kind in JOB_KINDS.values()])
    logs.configure(settings.log_format)
    if not metrics.serve(port, address=address, readings=state.readings, events=False):
        raise PermanentError(
            f"port {port} of {address} cannot be served on: choose another one with --port or --address"
        )
    # In a container it may be the first process, which no signal ends by default.
    signal.signal(signal.SIGTERM, _end)
    threading.Event().wait()


def _end(number: int, frame: object) -> NoReturn:
    del number, frame
    sys.exit(0)

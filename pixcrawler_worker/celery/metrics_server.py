"""Serving the metrics of a worker."""

from celery import bootsteps

from pixcrawler_worker import metrics, settings
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.jobs import sweeper
from pixcrawler_worker.monitored_state import MonitoredState
from pixcrawler_worker.registry import JOB_KINDS


class MetricsServer(bootsteps.StartStopStep):
    """Serves the metrics of the worker's main process, where an operator asks for it."""

    label = "Metrics server"
    # Children that start before it do not even inherit the port.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._port = settings.load().metrics_port
        if self._port:
            metrics.prepare(JOB_KINDS, steps=sweeper.STEPS, faults=[fault.value for fault in Fault])
            # Before there are children.
            metrics.collect()

    def start(self, parent: object) -> None:
        """Begin to serve."""
        del parent
        if self._port:
            tables = [kind.table for kind in JOB_KINDS.values()]
            # This worker is one: asking them all would have each ask all others.
            state = MonitoredState(settings.load(), tables, ask_workers=False)
            metrics.serve(self._port, readings=state.readings)

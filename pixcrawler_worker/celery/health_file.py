"""The file by which `pixcrawler health` knows whether a worker consumes messages."""

import contextlib
import time
from typing import Any, ClassVar

import structlog
from celery import bootsteps
from celery.concurrency import solo

from pixcrawler_worker import settings
from pixcrawler_worker.broker import liveness
from pixcrawler_worker.jobs.limits import LIMITS

log = structlog.get_logger()


class HealthFile(bootsteps.StartStopStep):
    """Writes the file of `pixcrawler health` in the event loop of the consumer, where an operator asks for it."""

    label = "Health file"
    requires = ("celery.worker.consumer.tasks:Tasks",)
    #: Why the database is no reason to call the worker ready; empty when it responds. Sweeps set it.
    database: ClassVar[str] = "the database was not asked yet"

    def __init__(self, parent: Any, **options: object) -> None:  # noqa: ANN401 - Celery's consumer
        super().__init__(parent, **options)
        self._path = settings.load().health_file
        self._hostname: str = parent.hostname
        # Chunks of the pool solo run where the file is written.
        is_solo = type(parent.pool).__module__ == solo.__name__
        self._max_age = liveness.MAX_AGE + (LIMITS.time_limit.total_seconds() if is_solo else 0)
        self._entry: Any = None
        self._written, self._said = 0.0, ""
        self._reported = False
        parent.on_waiting = self._wait

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Begin to say that messages are consumed."""
        self._write(self.database)
        self._entry = parent.timer.call_repeatedly(1.0, lambda: self._keep(self.database))

    def stop(self, parent: object) -> None:
        """Say so no longer: the connection is lost, or the worker stops."""
        del parent
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        self._write("no messages are consumed")

    def shutdown(self, parent: object) -> None:
        """Remove the file."""
        del parent
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _wait(self) -> None:
        self._keep("the broker does not answer")

    def _keep(self, not_ready: str) -> None:
        """Write what has changed at once, and what has not when its time has come."""
        if not_ready != self._said or time.monotonic() - self._written >= liveness.INTERVAL:
            self._write(not_ready)

    def _write(self, not_ready: str) -> None:
        self._written, self._said = time.monotonic(), not_ready
        if self._path is None:
            return
        try:
            liveness.write(self._path, self._hostname, not_ready=not_ready, max_age=self._max_age)
        except OSError as error:
            if not self._reported:
                self._reported = True
                log.warning("the health file cannot be written", path=str(self._path), reason=str(error))

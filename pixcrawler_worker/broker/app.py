"""A Celery app with one broker: that of the settings, which the rule for URLs has been applied to."""

from datetime import timedelta
from functools import cached_property
from typing import Any

from celery import Celery
from kombu import Connection


class BrokerApp(Celery):
    """A Celery app that connects to the broker that it was made with.

    Celery itself prefers its own variables, such as `CELERY_BROKER_URL` and `CELERY_BROKER_READ_URL`: a worker would
    take its messages from another broker than the one that its checks and its sweeps ask.

    Args:
        main: the name of the app.
        broker: the URL as kombu has it; None for what Celery takes by itself.
        revocation: how long a worker discards the messages of a chunk whose task was revoked.
        options: of a Celery app.
    """

    def __init__(
        self, main: str, *, broker: str | None, revocation: timedelta = timedelta(minutes=1), **options: Any
    ) -> None:
        self._broker = broker
        self.revocation = revocation
        super().__init__(main, broker=broker, **options)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker that the command line starts."""
        # By its name, because only workers need what it imports.
        name: Any = "pixcrawler_worker.broker.pool:StoppingWorker"
        return self.subclass_with_self(name)

    def _connection(self, url: str, *arguments: Any, **options: Any) -> Connection:
        made: Connection = super()._connection(self._broker or url, *arguments, **options)  # type: ignore[misc]  # Celery's stubs leave it out
        return made

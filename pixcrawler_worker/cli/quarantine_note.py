"""The line about the quarantine in commands about jobs."""

import click

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.settings import Settings

#: Seconds that commands about jobs wait for Redis: they do their work without it.
_PATIENCE = 0.5


def note(settings: Settings) -> None:
    """Print one line on stderr if messages were set aside; nothing when there is no broker, or it does not answer."""
    if settings.broker_url is None:
        return
    # The client of Redis takes a while to import.
    from pixcrawler_worker.broker import quarantine  # noqa: PLC0415

    try:
        count, newest = quarantine.read(settings.broker_url.get_secret_value(), limit=1, timeout=_PATIENCE)
    except (PermanentError, TransientError):
        return
    if count:
        click.echo(f"pixcrawler: {quarantine.summary(count, newest)}", err=True)

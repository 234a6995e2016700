"""The settings of a command, and the services that it uses: the configured ones, or those of the data directory."""

import contextlib
import os
from collections.abc import Iterator

from pixcrawler_worker import settings
from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.settings import Settings


def load_settings() -> Settings:
    """Return the settings, with the embedded services of `pixcrawler up` where no others are configured.

    The URLs of the services are put into the environment, for everything that this process starts or imports later.
    """
    found = settings.load()
    if found.database_url is None and (services := launcher.find(found.data_dir)):
        use_services(services)
        found = settings.load()
    if found.broker_url is not None:
        # The URL may come from `.env`, which the client does not read.
        os.environ["PIXCRAWLER_BROKER_URL"] = found.broker_url.get_secret_value()
    return found


def use_services(services: Services) -> None:
    """Use these services in this process and in those that it starts."""
    os.environ["PIXCRAWLER_DATABASE_URL"] = services.database_url
    os.environ["PIXCRAWLER_BROKER_URL"] = services.broker_url


def are_stopped() -> bool:
    """Return whether the data directory has the data of embedded services that do not run, and no others are set."""
    found = settings.load()
    return found.database_url is None and launcher.exist(found.data_dir) and launcher.find(found.data_dir) is None


@contextlib.contextmanager
def running_services() -> Iterator[None]:
    """Run the embedded services of the data directory while the context is open, unless others are in use or run."""
    if not are_stopped():
        yield
        return
    # Alembic takes a while to import, and services mostly run.
    from pixcrawler_worker.db import server  # noqa: PLC0415

    data_dir = settings.load().data_dir
    with interrupts.handled() as interrupted, contextlib.ExitStack() as stack:
        try:
            services = stack.enter_context(launcher.running(data_dir, allow_fake=True, hurry=interrupted.hurry))
            stack.enter_context(interrupted.last_resort(lambda: launcher.kill(services)))
            use_services(services)
            # The data may be that of an older version.
            server.upgrade(services.database_url)
            yield
        finally:
            interrupted.leaving = True

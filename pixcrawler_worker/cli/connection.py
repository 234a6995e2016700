"""Connections to the services: the configured ones, or the embedded ones of the data directory."""

import contextlib
import os
from collections.abc import Iterator

from pixcrawler_worker import logs, runtime, settings
from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.db import server
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.runtime import Runtime
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
def connect() -> Iterator[Runtime]:
    """Yield a runtime on the configured services, or on the embedded ones, and close it afterwards.

    Raises:
        PermanentError: when no database is configured or running.
    """
    found = load_settings()
    found.require_database()
    logs.configure(found.log_format, level=30)
    opened = runtime.connect(found)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def connect_to_data() -> Iterator[Runtime]:
    """Yield a runtime as `connect` does; if the embedded services are stopped, run them while the context is open.

    There is no worker then: jobs can be read and changed, and make no progress.

    Raises:
        PermanentError: when no database is configured, and the data directory has none.
    """
    with _running_services() if are_stopped() else contextlib.nullcontext(), connect() as opened:
        yield opened


@contextlib.contextmanager
def _running_services() -> Iterator[None]:
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

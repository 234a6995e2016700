"""Connections to all services that a worker uses: the configured ones, or those of the data directory."""

import contextlib
from collections.abc import Iterator

from pixcrawler_worker import logs, runtime
from pixcrawler_worker.cli import environment
from pixcrawler_worker.runtime import Runtime


@contextlib.contextmanager
def connect() -> Iterator[Runtime]:
    """Yield a runtime on the configured services, or on the embedded ones, and close it afterwards.

    Raises:
        PermanentError: when no database is configured or running.
    """
    found = environment.load_settings()
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
    with environment.running_services(), connect() as opened:
        yield opened

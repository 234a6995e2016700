"""The whole service on this machine while one command runs: PostgreSQL, Redis and a worker."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixcrawler_worker.cli import celery_processes, connection, console
from pixcrawler_worker.db import server
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import FAKE_REDIS
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


@dataclass(frozen=True, slots=True)
class LocalService:
    """Connections to the services, the process of the worker, and the path of its log."""

    runtime: Runtime
    worker: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise PermanentError when the worker has exited: jobs make no progress any more."""
        if self.worker.poll() is not None:
            raise PermanentError(f"the worker exited with code {self.worker.returncode}: see {self.log}")


@contextlib.contextmanager
def running(
    data_dir: Path, *, allow_fake: bool = False, concurrency: int | None = None, **settings: str
) -> Iterator[LocalService]:
    """Run everything while the context is open.

    Args:
        data_dir: the directory of the data; services that another command runs there are shared.
        allow_fake: use a Redis written in Python when no redis-server is installed, and say so.
        concurrency: worker processes; None for one per core.
        settings: environment variables of this process and the worker; they override the environment.
    """
    with contextlib.ExitStack() as stack:
        with console.out.status("starting PostgreSQL and Redis"):
            services = stack.enter_context(launcher.running(data_dir, allow_fake=allow_fake))
            if services.redis_server == FAKE_REDIS:
                console.out.print("no redis-server found: using fakeredis, which serves this command only")
            connection.use_services(services)
            os.environ |= settings
            server.upgrade(services.database_url)
        log = data_dir / "worker.log"
        runtime = stack.enter_context(connection.connect())
        worker = stack.enter_context(celery_processes.worker(concurrency, log=stack.enter_context(log.open("ab"))))
        yield LocalService(runtime, worker, log)

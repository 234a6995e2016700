"""The whole service on this machine for as long as one command takes: PostgreSQL, Redis and a worker."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixcrawler_worker import embedded
from pixcrawler_worker.cli import console
from pixcrawler_worker.cli import up as running
from pixcrawler_worker.db import checks
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Local:
    """What runs: connections to the services, a worker's process, and where its log lines go."""

    runtime: Runtime
    worker: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise PermanentError when the worker has ended: waiting for a job has become pointless."""
        if self.worker.poll() is not None:
            raise PermanentError(f"the worker ended with exit code {self.worker.returncode}: see {self.log}")


@contextlib.contextmanager
def service(
    data_dir: Path, *, allow_fake: bool = False, concurrency: int | None = None, **settings: str
) -> Iterator[Local]:
    """Keep everything running while the context is open.

    Args:
        data_dir: where everything lies; what another command runs there is joined.
        allow_fake: take a Redis written in Python when no real one is installed, and say so.
        concurrency: the worker's processes; one per core when left out.
        settings: of this process and of the worker, by their full names, above the environment.
    """
    with contextlib.ExitStack() as stack:
        with console.out.status("starting PostgreSQL and Redis"):
            services = stack.enter_context(embedded.running(data_dir, allow_fake=allow_fake))
            if services.redis_server == embedded.FAKE_REDIS:
                console.out.print("no redis-server was found: using fakeredis, which is good for this command only")
            console.adopt(services)
            os.environ |= settings
            checks.upgrade(services.database_url)
        log = data_dir / "worker.log"
        runtime = stack.enter_context(console.connected())
        worker = stack.enter_context(running.worker(concurrency, log=stack.enter_context(log.open("ab"))))
        yield Local(runtime, worker, log)

"""The whole service on this machine while one command runs: PostgreSQL, Redis and a worker."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pixcrawler_worker import registry
from pixcrawler_worker.cli import celery_processes, connection, console, environment, interrupts
from pixcrawler_worker.db import job_views, server
from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.embedded import launcher, processes
from pixcrawler_worker.embedded.services import FAKE_REDIS
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import ended_processes
from pixcrawler_worker.runtime import Runtime


@dataclass(frozen=True, slots=True)
class LocalService:
    """The service of one command.

    Attributes:
        runtime: connections to database and storage.
        worker: its process.
        log: of the worker.
        left: unfinished jobs of earlier commands, which this worker leaves alone.
        is_shared: whether another command uses the same database: its jobs are among those in `left`.
    """

    runtime: Runtime
    worker: subprocess.Popen[bytes]
    log: Path
    left: Sequence[JobView] = ()
    is_shared: bool = False

    def check(self) -> None:
        """Raise PermanentError when the worker has exited: jobs make no progress any more."""
        if self.worker.poll() is not None:
            raise PermanentError(f"the worker exited with code {self.worker.returncode}: see {self.log}")


@contextlib.contextmanager
def running(
    data_dir: Path,
    *,
    resumed: int | None = None,
    allow_fake: bool = False,
    concurrency: int | None = None,
    **settings: str,
) -> Iterator[LocalService]:
    """Run everything while the context is open. Jobs that earlier commands have left unfinished do not run.

    Args:
        data_dir: the directory of the data; services that another command runs there are shared.
        resumed: the crawl job to resume; its validations and exports run, too.
        allow_fake: use a Redis written in Python when no redis-server is installed, and say so.
        concurrency: worker processes; None for one per core.
        settings: environment variables of this process and the worker; they override the environment.

    Raises:
        KeyboardInterrupt: at the first Ctrl-C; later ones only shorten the waits, see `interrupts`.
    """
    with interrupts.handled() as interrupted, contextlib.ExitStack() as stack:
        try:
            with console.out.status("starting PostgreSQL and Redis"):
                services = stack.enter_context(
                    launcher.running(data_dir, allow_fake=allow_fake, hurry=interrupted.hurry)
                )
                stack.enter_context(interrupted.last_resort(lambda: launcher.kill(services)))
                if services.redis_server == FAKE_REDIS:
                    console.out.print("no redis-server found: using fakeredis, which serves this command only")
                environment.use_services(services)
                os.environ |= settings
                server.upgrade(services.database_url)
            log = data_dir / "worker.log"
            runtime = stack.enter_context(connection.connect())
            left = _left(runtime, resumed)
            os.environ["PIXCRAWLER_HELD_JOBS"] = ",".join(f"{job.table.name}:{job.id}" for job in left)
            # What a killed command has left, its lease would keep for a minute.
            _release_chunks(runtime)
            process = stack.enter_context(worker(runtime, concurrency, log=stack.enter_context(log.open("ab"))))
            yield LocalService(runtime, process, log, left, services.is_shared)
        finally:
            interrupted.leaving = True


@contextlib.contextmanager
def worker(
    runtime: Runtime, concurrency: int | None, *, log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker while the context is open, and release the chunks that it has to leave unfinished.

    Args:
        runtime: connects to the database that the worker uses.
        concurrency: its processes; None for one per core.
        log: the file for its output; None for the stderr of this process.
    """
    was_running = False
    try:
        with celery_processes.worker(concurrency, log=log) as process:
            try:
                yield process
            finally:
                was_running = process.poll() is None
    finally:
        # A chunk that has killed its worker keeps the lease, and its end counts as a crash.
        if was_running:
            _release_chunks(runtime)


def _release_chunks(runtime: Runtime) -> None:
    with contextlib.suppress(TransientError):
        kinds = registry.JOB_KINDS.values()
        ended_processes.release_stopped(runtime, kinds, ended=lambda pid: not processes.is_running(pid))


def _left(runtime: Runtime, resumed: int | None) -> list[JobView]:
    """Return the jobs that have not ended, by kind and newest first, without those of the resumed crawl job."""

    def read(session: Session) -> list[JobView]:
        kinds = registry.JOB_KINDS.values()
        return [job for kind in kinds for job in job_views.unfinished(session, kind.display.view)]

    return [job for job in transact(runtime.sessions, read) if job.crawl_id != resumed]

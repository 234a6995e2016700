"""`pixcrawler up`."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import click

from pixcrawler_worker import embedded
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.cli import console
from pixcrawler_worker.db import checks

#: A worker that ended by itself is started again, after this pause.
_PAUSE_SECONDS = 1.0
#: What a stopping worker gets to finish its chunks; longer ones are taken back by the next worker's sweep.
_GRACE_SECONDS = 30


@click.command()
@click.option("--concurrency", type=click.IntRange(min=1), help="Worker processes.  [default: one per core]")
def up(*, concurrency: int | None) -> None:
    """Run PostgreSQL, Redis and a worker until interrupted. Other commands in this directory find them."""
    settings = configuration.load()
    with embedded.running(settings.data_dir, allow_fake=False) as services:
        console.adopt(services)
        checks.upgrade(services.database_url)
        click.echo(f"PostgreSQL  {services.database_url}")
        click.echo(f"Redis       {services.redis_url}")
        click.echo(f"data        {services.data_dir}")
        click.echo("Stop with Ctrl-C. In another terminal: pixcrawler crawl cat --urls list.txt --watch")
        signal.signal(signal.SIGTERM, _interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with worker(concurrency) as process:
                    process.wait()
                click.echo(f"the worker ended with exit code {process.returncode}; starting another one", err=True)
                time.sleep(_PAUSE_SECONDS)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def worker(concurrency: int | None, *, log: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a worker process running while the context is open; then let it finish its chunks.

    Args:
        concurrency: its processes; one per core when left out.
        log: where its lines go; to our own stderr when left out.
    """
    command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "worker"]
    command += ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    command += [] if concurrency is None else ["--concurrency", str(concurrency)]
    if setpriv := shutil.which("setpriv"):
        # Where the kernel can (Linux), the worker is asked to end when we are killed, and is never left behind.
        command = [setpriv, "--pdeathsig", "TERM", *command]
    # A session of its own: Ctrl-C reaches us alone, and we end it in order.
    process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    # Celery warns of root once per start; the embedded services are for development, where a container is often root.
    return os.environ | {"PYTHONWARNINGS": "ignore:You're running the worker with superuser"}

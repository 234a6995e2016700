"""`pixcrawler up`."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
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
#: Where Flower is expected; another free port is taken when somebody else is there.
_FLOWER_PORT = 5555


@click.command()
@click.option("--concurrency", type=console.NUMBER, help="Worker processes.  [default: one per core]")
def up(*, concurrency: int | None) -> None:
    """Run PostgreSQL, Redis, a worker and Flower until interrupted. Other commands in this directory find them.

    Flower shows workers, queues and tasks in a browser; it comes with pip install 'pixcrawler-worker[flower]'.
    """
    settings = configuration.load()
    with contextlib.ExitStack() as stack:
        services = stack.enter_context(embedded.running(settings.data_dir, allow_fake=False))
        console.adopt(services)
        checks.upgrade(services.database_url)
        click.echo(f"PostgreSQL  {services.database_url}")
        click.echo(f"Redis       {services.redis_url}")
        click.echo(f"data        {services.data_dir}")
        flower = stack.enter_context(_flower(services.data_dir / "flower.log"))
        click.echo(f"Flower      {flower}")
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
    with _process(command, log) as process:
        yield process


@contextlib.contextmanager
def _flower(log: Path) -> Iterator[str]:
    """Keep Flower running while the context is open, for this machine alone; yield where it is, or why it is not."""
    if importlib.util.find_spec("flower") is None:
        yield "not installed: pip install 'pixcrawler-worker[flower]'"
        return
    port = _free_port(_FLOWER_PORT)
    command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "flower"]
    command += ["--address=127.0.0.1", f"--port={port}", "--logging=warning"]
    with log.open("ab") as file, _process(command, file):
        yield f"http://127.0.0.1:{port}/"


def _free_port(wanted: int) -> int:
    """Return this port of loopback, or another one when it is taken."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", wanted))
        except OSError:
            taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(command: Sequence[str], log: IO[bytes] | None) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a process of Celery's running while the context is open; then ask it to end, and end it if it does not."""
    if setpriv := shutil.which("setpriv"):
        # Where the kernel can (Linux), it is asked to end when we are killed, and is never left behind.
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

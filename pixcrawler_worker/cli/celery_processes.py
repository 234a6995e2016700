"""Celery processes that commands run on this machine: a worker, and Flower."""

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.embedded import processes

#: How long a stopping worker may take to finish its chunks; and after a Ctrl-C.
_GRACE_SECONDS, _INTERRUPTED_SECONDS = 30.0, 3.5
#: How long killed processes may take to disappear.
_KILLED_SECONDS = 0.5
#: The usual port of Flower; a free port is used when this one is server.
_FLOWER_PORT = 5555


@contextlib.contextmanager
def worker(concurrency: int | None, *, log: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker while the context is open, then let it finish its chunks.

    Args:
        concurrency: its processes; None for one per core.
        log: the file for its output; None for the stderr of this process.
    """
    command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "worker"]
    command += ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    command += [] if concurrency is None else ["--concurrency", str(concurrency)]
    with _process(command, log) as process:
        yield process


@contextlib.contextmanager
def flower(log: Path) -> Iterator[str]:
    """Run Flower on loopback while the context is open; yield its URL and how to log in, or why it does not run.

    The password is another one each time. It is in the environment of the process, because anyone on this machine can
    read the arguments of a process.
    """
    if importlib.util.find_spec("flower") is None:
        yield "not installed: pip install 'pixcrawler-worker[flower]'"
        return
    port = _free_port(_FLOWER_PORT)
    command = [sys.executable, "-m", "pixcrawler_worker.flower", f"--port={port}", "--logging=warning"]
    password = secrets.token_urlsafe(16)
    with log.open("ab") as file, _process(command, file, FLOWER_BASIC_AUTH=f"pixcrawler:{password}"):
        yield f"http://127.0.0.1:{port}/  (user pixcrawler, password {password})"


def _free_port(preferred: int) -> int:
    """Return a port of loopback: the preferred one, or another one when it is server."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", preferred))
        except OSError:
            server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(command: Sequence[str], log: IO[bytes] | None, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Celery process while the context is open; then terminate it, and kill it after a grace period."""
    if setpriv := processes.setpriv():
        # On Linux the kernel terminates it when this process is killed, so that it is never orphaned.
        command = [setpriv, "--pdeathsig", "TERM", *command]
    # In a session of its own, so that Ctrl-C reaches this process only, which stops the others in order.
    process = subprocess.Popen(command, env=_environment() | variables, stdout=log, stderr=log, start_new_session=True)
    waiting = interrupts.current()
    with waiting.last_resort(lambda: _kill(process)):
        try:
            yield process
        finally:
            process.terminate()
            waiting.wait(lambda: process.poll() is not None, seconds=_GRACE_SECONDS, interrupted=_INTERRUPTED_SECONDS)
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its children, and wait until they are gone."""
    deadline = time.monotonic() + _KILLED_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # It leads a session of its own, which has its number as long as one of its processes runs.
        while time.monotonic() < deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.01)
    process.wait()


def _environment() -> dict[str, str]:
    # Celery warns about root at each start, but a development container often runs as root.
    return os.environ | {"PYTHONWARNINGS": "ignore:You're running the worker with superuser"}

"""Processes that hold a lock while they live, and so can be found again after whoever started them was killed."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from pixcrawler_worker.embedded.services import EmbeddedError

#: How long a process that was asked to stop may take. PostgreSQL writes its checkpoint in this time.
STOP_PATIENCE = timedelta(seconds=30)


@contextmanager
def lock(path: Path, *, stop_with: signal.Signals) -> Iterator[IO[str]]:
    """Hold a process's lock; what still runs under it, because its keeper was killed, is stopped first.

    Raises:
        EmbeddedError: it does not end, not even when killed.
    """
    with path.open("a+") as held:
        for number in (stop_with, signal.SIGKILL):
            if _taken(held):
                break
            held.seek(0)
            with suppress(ProcessLookupError, ValueError):  # it has just ended, or its id is not yet written
                os.kill(int(held.read()), number)
            if within(STOP_PATIENCE, lambda: _taken(held)):
                break
        else:
            raise EmbeddedError(f"a process of an earlier start does not end; its id is in {path}")
        yield held


def spawn(
    command: list[str],
    *,
    lock: IO[str],
    stdin: int = subprocess.DEVNULL,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process that inherits the lock, and thereby holds it until it and its children have ended.

    Its output goes to a log beside the lock.
    """
    # The user's own PGPORT or LC_MESSAGES are not meant for these servers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with log_of(lock).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=log,
            stderr=log,
            env=environment | {"LC_ALL": "C"},
            pass_fds=[lock.fileno()],
            start_new_session=new_session,
        )
    lock.truncate(0)
    lock.write(str(process.pid))
    lock.flush()
    return process


def log_of(lock: IO[str]) -> Path:
    """The log of what runs under a lock."""
    return Path(lock.name).with_suffix(".log")


def last_words(log: Path) -> str:
    """The end of a log, as one line for an error message."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' / '.join(lines[-3:]) or 'it said nothing'} ({log})"


def within(patience: timedelta, done: Callable[[], bool]) -> bool:
    """Whether something was done in time."""
    deadline = time.monotonic() + patience.total_seconds()
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def setpriv() -> str | None:
    """The util-linux program that sets what a process may do, where there is one. Busybox's knows too little."""
    found = shutil.which("setpriv")
    return found if found and Path(found).resolve().name == "setpriv" else None


def _taken(held: IO[str]) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

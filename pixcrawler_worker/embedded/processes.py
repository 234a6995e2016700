"""Processes that hold a lock while they run, so that they are found after the process that started them was killed."""

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

#: From the signal to stop a process until it is killed. PostgreSQL writes its checkpoint in this time.
STOP_TIMEOUT = timedelta(seconds=30)


@contextmanager
def lock(path: Path, *, stop_with: signal.Signals) -> Iterator[IO[str]]:
    """Yield the file of a lock that this process holds, after stopping a process that still holds it.

    Args:
        path: of the file; it has the id of the process that holds the lock.
        stop_with: the signal for a process that holds it; SIGKILL follows.

    Raises:
        EmbeddedError: when that process does not end, not even by SIGKILL.
    """
    with path.open("a+") as file:
        for number in (stop_with, signal.SIGKILL):
            if _acquire(file):
                break
            file.seek(0)
            with suppress(ProcessLookupError, ValueError):  # it has just ended, or its id is not written yet
                os.kill(int(file.read()), number)
            if wait_until(STOP_TIMEOUT, lambda: _acquire(file)):
                break
        else:
            raise EmbeddedError(f"a process of an earlier start does not end: kill it, its id is in {path}")
        yield file


def spawn(
    command: list[str],
    *,
    lock: IO[str],
    stdin: int = subprocess.DEVNULL,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process that inherits the lock and holds it until the process and its children have ended.

    Its output goes to `log_of(lock)`.
    """
    # PGPORT, LC_MESSAGES and the like are for other servers of the user.
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
    """Return the path of the log of the process that holds a lock."""
    return Path(lock.name).with_suffix(".log")


def last_lines(log: Path) -> str:
    """Return the last lines of a log as one line for an error message."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' / '.join(lines[-3:]) or 'no output'} ({log})"


def wait_until(timeout: timedelta, done: Callable[[], bool]) -> bool:
    """Poll `done` until it is true, and return True; return False after the timeout."""
    deadline = time.monotonic() + timeout.total_seconds()
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    """Return whether a process of this machine runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # The state follows the name, which may hold anything (proc_pid_stat(5)).
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except OSError:
        return True


def setpriv() -> str | None:
    """Return the path of setpriv from util-linux, or None; the one from Busybox lacks options."""
    found = shutil.which("setpriv")
    return found if found and Path(found).resolve().name == "setpriv" else None


def _acquire(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

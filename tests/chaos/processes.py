"""Looking at processes through /proc, and ending those that this run started."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: In the command line of a decoder.
_DECODER = b"pixcrawler_worker.inspection"


def family() -> dict[int, list[int]]:
    """Return the ids of the running processes by the id of their parent; zombies are left out."""
    found: dict[int, list[int]] = defaultdict(list)
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))):
            state, parent = stat
            if state != "Z":
                found[parent].append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] != "Z"


def is_decoder(pid: int) -> bool:
    """Return whether the process is the decoder of a worker process."""
    try:
        return _DECODER in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 when it has ended."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def open_files(pid: int) -> int:
    """Return how many files a process has open; 0 when it has ended."""
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_for_end(pids: Iterable[int], *, seconds: float) -> list[int]:
    """Wait until the processes have ended; return those that have not."""
    deadline = time.monotonic() + seconds
    left = list(pids)
    while (left := [pid for pid in left if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        # The name of the program is in parentheses and may have any characters, parentheses among them.
        state, parent, *_ = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return state, int(parent)

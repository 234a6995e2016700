"""The health file: what a worker's main process writes every few seconds, and a probe of its container reads.

The consumer writes it in its own event loop, and while it waits for a broker that is away: a process that hangs writes
no more, and an outage is no reason to restart a worker. Only the standard library is imported here, because a probe
starts often.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

#: Seconds between two writes.
INTERVAL = 5.0
#: Seconds after which a worker counts as hanging, where chunks run in other processes than the one that writes.
MAX_AGE = 60.0
#: Bytes that are read of a file.
_MAX_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker says of itself.

    Attributes:
        worker: its name.
        pid: of its main process.
        written: when, in seconds of the system's monotonic clock, which all processes of a machine share.
        max_age: seconds after which it counts as hanging.
        not_ready: why it takes no work; empty when it does.
    """

    worker: str
    pid: int
    written: float
    max_age: float
    not_ready: str


def write(path: Path, worker: str, *, not_ready: str, max_age: float = MAX_AGE) -> None:
    """Replace the health file by one of this process and this moment.

    Raises:
        OSError: when it cannot be written.
    """
    health = Health(worker, os.getpid(), time.monotonic(), max_age, not_ready)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    # Where others may write, too, a link that waits there is not followed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(health), file)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def check(path: Path, *, ready: bool) -> tuple[bool, str]:
    """Return whether the worker of a health file is alive, and one line that says why or why not.

    Args:
        path: of the file.
        ready: whether the worker must also take work: be connected to the broker and have a database that responds.
    """
    try:
        with path.open("rb") as file:
            health = Health(**json.loads(file.read(_MAX_BYTES)))
        age = time.monotonic() - health.written
        overdue = not 0 <= age <= health.max_age
        gone = not _exists(health.pid)
    except OSError as error:
        return False, f"{path} cannot be read: {error.strerror}; the worker has not started, or has ended"
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False, f"{path} is not the file of a worker"
    if gone:
        return False, f"{health.worker} has ended: there is no process {health.pid}"
    if overdue:
        return False, f"{health.worker} hangs: it wrote {path} {age:.0f} s ago, {health.max_age:.0f} s are allowed"
    if health.not_ready:
        return not ready, f"{health.worker} is alive, but not ready: {health.not_ready}"
    return True, f"{health.worker} is alive and ready"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

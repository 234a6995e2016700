"""What happened, as lines of JSON in the order of time: faults, violations, exits, ends of jobs."""

import json
import threading
import time
from pathlib import Path


class Events:
    """A log of events in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._begun = time.monotonic()

    def write(self, event: str, **details: object) -> None:
        """Append an event with the seconds since the start of the run."""
        line = {"s": round(time.monotonic() - self._begun, 3), "event": event, **details}
        with self._lock:
            self._file.write(json.dumps(line, default=str) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

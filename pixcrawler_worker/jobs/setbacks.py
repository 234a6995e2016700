"""What sweeps of this process remember: the rows that they failed at, and whether the last one reached the database."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from pixcrawler_worker.domain.retry import backoff

#: Rows that are remembered: what is forgotten is only tried again sooner.
_MAX_ROWS = 50_000


@dataclass(slots=True)
class _Setback:
    count: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Setbacks:
    """Failures by step, kind and id of the row, in memory: a restart begins from nothing.

    A row that cannot be processed is tried less and less often, so that sweeps do not spend their time on it, and other
    rows take its place in their batches.

    Attributes:
        clock: returns seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _rows: dict[tuple[str, str], dict[int, _Setback]] = field(default_factory=dict)
    _interrupted: bool = False
    _was_interrupted: bool = False
    _spared: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Begin a sweep."""
        self._was_interrupted, self._interrupted = self._interrupted, False
        if not self._was_interrupted:
            self._spared.clear()

    def interrupt(self) -> None:
        """Note that the database did not answer this sweep, or refused to have a chunk reaped."""
        self._interrupted = True

    def spares(self, chunk_id: int) -> bool:
        """Return whether a chunk is not to be reaped yet, although its lease has expired.

        The sweep before this one was interrupted, so its owner may have reached the database no better. A chunk is
        spared once, so that one query that always fails keeps none from being reaped.
        """
        return self._was_interrupted and chunk_id not in self._spared

    def spared(self, chunk_id: int) -> None:
        """Note that a chunk was spared."""
        self._spared.add(chunk_id)

    def waiting(self, step: str, kind: str) -> set[int]:
        """Return the rows that the step does not try yet."""
        now = self.clock()
        return {row_id for row_id, row in self._rows.get((step, kind), {}).items() if row.until > now}

    def note(self, step: str, kind: str, row_id: int, *, passing: bool) -> int:
        """Note that a step failed at a row, and return how often it has so far.

        Args:
            step: of the sweep.
            kind: of the job.
            row_id: of the job, or of the chunk.
            passing: whether the next sweep may already succeed; only what repeats is then put off.
        """
        rows = self._rows.setdefault((step, kind), {})
        row = rows.setdefault(row_id, _Setback())
        row.count += 1
        pause = timedelta(0) if passing and row.count == 1 else backoff(row.count)
        row.until = self.clock() + pause.total_seconds()
        while len(rows) > _MAX_ROWS:
            del rows[next(iter(rows))]
        return row.count

    def forget(self, step: str, kind: str, row_id: int) -> None:
        """Note that a step succeeded at a row."""
        self._rows.get((step, kind), {}).pop(row_id, None)

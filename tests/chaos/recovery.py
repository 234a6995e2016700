"""How long chunks wait after a fault took their process or their message.

One whose process is gone has recovered when it runs again or has ended. One whose message is gone waited for its turn
anyway: it has recovered when its message is sent again.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Victim:
    """A chunk that a fault took something from.

    Attributes:
        chunk: its id.
        fence: of its last claim.
        sent: when the message that was lost was sent, in seconds; None when it was a process that was lost.
    """

    chunk: int
    fence: int | None
    sent: float | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """One chunk that runs again.

    Attributes:
        fault: what happened to it.
        chunk: its id.
        begun, ended: when, by the monotonic clock.
        again: whether another fault took its process or message meanwhile.
    """

    fault: str
    chunk: int
    begun: float
    ended: float
    again: bool

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass
class Recovery:
    """The chunks that are waited for, and those that have recovered.

    Attributes:
        recovered: those that run again.
        disturbances: when a service was away, as fault, begin and end.
    """

    recovered: list[Recovered] = field(default_factory=list)
    disturbances: list[tuple[str, float, float]] = field(default_factory=list)
    _awaited: dict[int, tuple[str, Victim, float]] = field(default_factory=dict)
    _again: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, fault: str, victims: Iterable[Victim], now: float) -> None:
        """Wait for these chunks from now on; for those that are waited for already, note that it takes longer."""
        with self._lock:
            for victim in victims:
                if victim.chunk in self._awaited:
                    self._again.add(victim.chunk)
                else:
                    self._awaited[victim.chunk] = (fault, victim, now)

    def awaited(self) -> list[int]:
        """Return the chunks to look at."""
        with self._lock:
            return list(self._awaited)

    def look(self, rows: Iterable[Sequence[Any]], now: float) -> None:
        """Note which chunks have recovered.

        Args:
            rows: id, state, fence and time of the last message of each chunk; one that is deleted has none.
            now: when they were read.
        """
        seen = {row[0]: row for row in rows}
        with self._lock:
            for chunk, (fault, victim, begun) in list(self._awaited.items()):
                if begun >= now:
                    continue  # the snapshot may be older than the fault
                _, state, fence, sent = seen.get(chunk, (chunk, "deleted", None, None))
                is_sent_again = victim.sent is not None and sent is not None and sent > victim.sent
                if (state == "queued" and not is_sent_again) or (state == "running" and fence == victim.fence):
                    continue
                del self._awaited[chunk]
                again = chunk in self._again
                self._again.discard(chunk)
                # One that ended by the claim that it had, or was cancelled or deleted, had nothing to recover from.
                if (fence != victim.fence or is_sent_again) and state not in {"cancelled", "deleted"}:
                    self.recovered.append(Recovered(fault, chunk, begun, now, again))

    def disturb(self, fault: str, begin: float, end: float) -> None:
        """Note when a service was away."""
        with self._lock:
            self.disturbances.append((fault, begin, end))

    def times(self) -> tuple[list[float], list[float]]:
        """Return the seconds of those that no other fault disturbed meanwhile, and of the others; each sorted."""
        alone: list[float] = []
        disturbed: list[float] = []
        for one in self.recovered:
            others = any(
                begin < one.ended and end > one.begun and fault != one.fault for fault, begin, end in self.disturbances
            )
            (disturbed if others or one.again else alone).append(one.seconds)
        return sorted(alone), sorted(disturbed)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values; 0 of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0

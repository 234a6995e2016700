"""Deals faults: each kind as often as its weight in every round, in random order, several at a time."""

import random
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch

from chaos.faults.catalog import ACTING, FAULTS, Arena, Fault, SkippedError

#: Seconds of a cycle, and those at its end in which no service is taken away, so that recovery is seen without that.
_CYCLE, _CALM = 60.0, 25.0
#: Faults that act at the same time at most.
_AT_ONCE = 10


def chosen(only: str, without: str) -> list[Fault]:
    """Return the kinds whose `group: name` fits one of the patterns of `only`, and none of `without`.

    Raises:
        ValueError: when there are none.
    """
    found = [one for one in FAULTS if _fits(one, only or "*") and not (without and _fits(one, without))]
    if not found:
        raise ValueError(f"no fault fits {only!r} without {without!r}")
    return found


def _fits(one: Fault, patterns: str) -> bool:
    return any(fnmatch(one.title.lower(), f"*{pattern.strip().lower()}*") for pattern in patterns.split(","))


class Injector:
    """Injects faults until it is stopped.

    Args:
        arena: what they act on.
        kinds: to deal.
        per_second: how many, on average.
        chance: decides which, and when.
    """

    def __init__(self, arena: Arena, kinds: Sequence[Fault], *, per_second: float, chance: random.Random) -> None:
        self._arena, self._kinds, self._per_second, self._random = arena, kinds, per_second, chance
        self._round: deque[Fault] = deque()
        self._begun = 0.0
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._acting = threading.Semaphore(_AT_ONCE)
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fault")
        self._thread = threading.Thread(target=self._deal, name="injector", daemon=True)
        #: How often each kind was applied, and could not be.
        self.applied: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        #: Errors of the faults themselves.
        self.errors: Counter[str] = Counter()

    def start(self) -> None:
        self._begun = self._arena.now()
        self._thread.start()

    def stop(self) -> None:
        """Deal no more, let those that act end early, and wait until they have undone what they did."""
        self._stopping.set()
        self._thread.join()
        self._arena.ended.set()
        self._pool.shutdown()

    def _deal(self) -> None:
        while not self._stopping.wait(self._random.expovariate(self._per_second)):
            # Before one is chosen: what is chosen counts as busy until it has acted.
            if not self._acting.acquire(timeout=1):
                continue
            if one := self._next():
                self._pool.submit(self._act, one)
            else:
                self._acting.release()

    def _next(self) -> Fault | None:
        """Return the next kind of the round that may act beside those that do."""
        calm = (self._arena.now() - self._begun) % _CYCLE > _CYCLE - _CALM
        with self._lock:
            one = self._take(calm=calm)
            if one is None and len(self._round) < len(self._kinds):
                # Not only when none is left: the last ones may all have to wait for each other.
                dealt = [one for one in self._kinds for _ in range(one.weight)]
                self._round.extend(self._random.sample(dealt, k=len(dealt)))
                one = self._take(calm=calm)
            return one

    def _take(self, *, calm: bool) -> Fault | None:
        for _ in range(len(self._round)):
            one = self._round.popleft()
            if (one.alone is None or not self._busy[one.alone]) and not (calm and one.takes):
                self._busy[one.alone or ""] += 1
                return one
            self._round.append(one)
        return None

    def _act(self, one: Fault) -> None:
        events, begun = self._arena.events, self._arena.now()
        ACTING.set(one.title)
        try:
            events.write("fault", kind=one.title)
            one.act(self._arena)
            self.applied[one.title] += 1
            events.write("fault over", kind=one.title)
        except SkippedError as reason:
            self.skipped[one.title] += 1
            events.write("fault skipped", kind=one.title, reason=str(reason))
        except Exception as error:  # noqa: BLE001 - a service that is away fails the fault, and the run goes on
            self.errors[one.title] += 1
            events.write("fault failed", kind=one.title, error=repr(error))
        finally:
            if one.takes:
                self._arena.recovery.disturb(one.title, begun, self._arena.now())
            with self._lock:
                self._busy[one.alone or ""] -= 1
            self._acting.release()

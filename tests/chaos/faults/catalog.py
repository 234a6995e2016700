"""What a fault is, what it acts on, and the catalog of all of them. A kind of fault is one function."""

import random
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from chaos.events import Events
from chaos.load import Load
from chaos.recovery import Recovery, Victim
from chaos.services import Broker, Database, Storage, WebServers
from chaos.workers import Workers

#: Seconds of a lease, and between two sweeps, in a run.
LEASE, SWEEP = 8.0, 1.0

#: The title of the fault that acts in this thread.
ACTING: ContextVar[str] = ContextVar("ACTING", default="")


class SkippedError(Exception):
    """The fault cannot be applied at the moment, or on this machine; the message says why."""


@dataclass
class Arena:
    """Everything that a fault acts on.

    Attributes:
        ended: set when faults are to end at once.
    """

    database: Database
    broker: Broker
    storage: Storage
    servers: WebServers
    workers: Workers
    load: Load
    recovery: Recovery
    events: Events
    random: random.Random
    ended: threading.Event

    def expect(self, victims: Iterable[Victim]) -> None:
        """Wait for the recovery of chunks whose process or message the fault that acts has just taken."""
        taken = list(victims)
        self.events.write("chunks taken", kind=ACTING.get(), chunks=[victim.chunk for victim in taken])
        self.recovery.expect(ACTING.get(), taken, self.now())

    def hold(self, seconds: float) -> None:
        """Let the fault last for so long, or until the run ends."""
        self.ended.wait(seconds)

    def between(self, least: float, most: float) -> float:
        """Return a random number of seconds."""
        return self.random.uniform(least, most)

    def now(self) -> float:
        """Return the time by the monotonic clock."""
        return time.monotonic()


Act = Callable[[Arena], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: of the kind.
        group: what it acts on.
        act: does it, and undoes what has to be undone.
        weight: how often it is dealt in a round of all kinds.
        alone: no two faults with the same word act at the same time.
        takes: whether a service or the machine is taken from the workers while it acts, so that what recovers from
            another fault takes longer.
    """

    name: str
    group: str
    act: Act
    weight: int
    alone: str | None
    takes: bool

    @property
    def title(self) -> str:
        """The name with the group."""
        return f"{self.group}: {self.name}"


#: All kinds, in the order of the report.
FAULTS: list[Fault] = []


def fault(
    name: str, group: str, *, weight: int = 1, alone: str | None = None, takes: bool = False
) -> Callable[[Act], Act]:
    """Add a kind of fault to the catalog; see `Fault`."""

    def add(act: Act) -> Act:
        assert (name, group) not in {(one.name, one.group) for one in FAULTS}, f"two faults are named {name}"
        FAULTS.append(Fault(name, group, act, weight, alone, takes))
        return act

    return add

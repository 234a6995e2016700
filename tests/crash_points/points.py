"""A fault at every request of a transition: the requests are counted by a proxy in front of the database, not by hand.

errors    the request does not arrive, and is answered with an error: one after which a transaction is tried again,
          and one after which it is not
cuts      the connection breaks before the request arrives, or before its response arrives
kills     the process that makes the transition is killed there, likewise
"""

import gc
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import psycopg
from crash_points.transitions import Act, Transition
from crash_points.world import KINDS, World
from fakes.postgres_proxy import PostgresProxy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker import runtime as runtimes
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.runtime import Runtime

#: More requests than any transition has.
_MAX_REQUESTS = 1_000
#: Seconds that a process, or the end of its session, may take.
_PATIENCE = 60


class Fault(StrEnum):
    """What happens at a request."""

    PASSING_ERROR = "passing error"
    LASTING_ERROR = "lasting error"
    LOST_REQUEST = "lost request"
    LOST_ANSWER = "lost answer"
    KILL_BEFORE = "kill before"
    KILL_AFTER = "kill after"


#: SQLSTATE of a serialization failure, and of a division by zero.
_STATES = {Fault.PASSING_ERROR: "40001", Fault.LASTING_ERROR: "22012"}
_KILLS = frozenset({Fault.KILL_BEFORE, Fault.KILL_AFTER})
#: After these a transaction is made again at once.
_UNSEEN = frozenset({Fault.PASSING_ERROR, Fault.LOST_REQUEST, Fault.LOST_ANSWER})
_DONE = frozenset({Fault.LOST_ANSWER, Fault.KILL_AFTER})


@dataclass(slots=True)
class Outcome:
    """What there was to see after a transition.

    Attributes:
        at_once: of the jobs and all that decides about them, when the call had returned.
        at_end: of the jobs, when they had ended.
    """

    at_once: list[Any]
    at_end: list[Any]


@dataclass(slots=True)
class Points:
    """Enumerates the faults of transitions.

    Attributes:
        direct: whose connections never break.
        shaky: whose connections go through the proxy.
        wire: the proxy.
    """

    direct: Runtime
    shaky: Runtime
    wire: PostgresProxy

    def requests_of(self, kind: str, transition: Transition) -> int:
        """Return how many requests a transition has when nothing disturbs it."""
        act = transition(self._world(kind))
        before = self.wire.requests
        act(self.shaky)
        return self.wire.requests - before

    def undisturbed(self, kind: str, transition: Transition) -> Outcome:
        """Return what a transition leads to when nothing disturbs it."""
        world = self._world(kind)
        act = transition(world)
        act(self.shaky)
        return self._outcome(world)

    def try_all(self, kind: str, transition: Transition, fault: Fault) -> int:
        """Make a transition with a fault at its first request, at its second, and so on, until it has no more.

        What must hold of every committed snapshot holds at once; called again, and after sweeps, the transition leads
        to what it leads to undisturbed. A fault that is no more than a broken connection or a passing error shows in
        nothing at all. Return the number of requests.
        """
        expected = self.undisturbed(kind, transition)
        # The same state leads to the same end: each is followed once.
        followed: list[list[Any]] = []
        for request in range(1, _MAX_REQUESTS):
            world = self._world(kind)
            act = transition(world)
            if not self._make(act, request, fault):
                return request - 1
            try:
                world.check()
                assert fault not in _UNSEEN or world.state() == expected.at_once
                act(self.direct)
                world.check()
                if (state := world.state()) not in followed:
                    world.end()
                    world.check()
                    assert world.seen() == expected.at_end
                    followed.append(state)
            except AssertionError as error:
                error.add_note(f"{kind}: {transition.__name__}: {fault} at request {request}")
                raise
        raise AssertionError(f"{transition.__name__} has no end")

    def _world(self, kind: str) -> World:
        world = World(self.direct, kind, KINDS[kind])
        world.clear()
        self.wire.cancel_cut()
        return world

    def _outcome(self, world: World) -> Outcome:
        world.check()
        at_once = world.state()
        world.end()
        world.check()
        return Outcome(at_once, world.seen())

    def _make(self, act: Act, request: int, fault: Fault) -> bool:
        """Make a transition with a fault at a request; return whether it had so many."""
        if fault in _KILLS:
            return self._make_and_kill(act, request, fault)
        cuts = self.wire.cuts
        if state := _STATES.get(fault):
            self.wire.fail_at(request, state)
        else:
            self.wire.cut_at(request, done=fault in _DONE)
        try:
            act(self.shaky)
        except (DBAPIError, psycopg.Error, WorkerError):
            assert fault is Fault.LASTING_ERROR, "a passing error is not passed on"
        finally:
            self.wire.cancel_cut()
        if self.wire.cuts == cuts:
            return False
        if fault not in _STATES:
            self.wire.wait_for_cut(seconds=_PATIENCE)
        return True

    def _make_and_kill(self, act: Act, request: int, fault: Fault) -> bool:
        """Make it in a process of its own."""
        ready_read, ready_write = os.pipe()
        go_read, go_write = os.pipe()
        cuts = self.wire.cuts
        child = os.fork()
        if child == 0:
            self._be_child(act, lambda: (os.write(ready_write, b"r"), os.read(go_read, 1)))
        try:
            os.close(ready_write)
            os.close(go_read)
            assert os.read(ready_read, 1) == b"r", "the process ended before it was ready"
            # From here on: connecting is not part of the transition.
            self.wire.cut_at(request, done=fault in _DONE, then=lambda: os.kill(child, signal.SIGKILL))
            os.write(go_write, b"g")
        finally:
            os.close(ready_read)
            os.close(go_write)
            _, status = os.waitpid(child, 0)
            self.wire.cancel_cut()
        killed = self.wire.cuts > cuts
        assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if killed else 0)
        if killed:
            self.wire.wait_for_cut(seconds=_PATIENCE)
        return killed

    def _be_child(self, act: Act, wait: Callable[[], object]) -> NoReturn:
        # The parent's objects are not to be finalized here: they hold its connections.
        gc.disable()
        try:
            with closing(runtimes.connect(self.shaky.settings)) as own:
                transact(own.sessions, lambda session: session.execute(text("SELECT 1")))
                wait()
                act(own)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the parent's is to run here, whatever happened
            traceback.print_exc()
            os._exit(1)

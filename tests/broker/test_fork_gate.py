"""Threads that work, and forks, which exclude each other."""

import threading
from dataclasses import dataclass

import pytest

from pixcrawler_worker.broker.fork_gate import PATIENCE, ForkGate


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def may_fork(gate: ForkGate) -> bool:
    with gate.fork() as may:
        return may


def begins_within(gate: ForkGate, seconds: float) -> bool:
    """Return whether another thread begins to work within that time."""
    begun = threading.Event()

    def work() -> None:
        with gate.work():
            begun.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return begun.wait(seconds)


def test_a_fork_waits_for_each_of_the_threads_at_work() -> None:
    gate = ForkGate()
    assert may_fork(gate)
    with gate.work():
        with gate.work():
            assert not may_fork(gate)
        assert not may_fork(gate)
    assert may_fork(gate)


def test_a_thread_whose_work_fails_is_not_at_work_any_more() -> None:
    gate = ForkGate()
    with pytest.raises(ZeroDivisionError), gate.work():
        _ = 1 // 0
    assert may_fork(gate)


def test_work_does_not_begin_while_a_child_is_forked_and_begins_after_it() -> None:
    gate = ForkGate()
    with gate.fork() as may:
        assert may
        assert not begins_within(gate, 0.2)
    assert begins_within(gate, 5)


def test_work_does_not_begin_while_a_fork_waits_for_its_turn() -> None:
    gate = ForkGate()
    with gate.work():
        assert not may_fork(gate)
        assert not begins_within(gate, 0.2)
    assert not begins_within(gate, 0.2)
    assert may_fork(gate)
    assert begins_within(gate, 5)


def test_work_begins_when_a_fork_that_waited_is_not_tried_again() -> None:
    """The pool stops, for example."""
    gate = ForkGate()
    with gate.work():
        assert not may_fork(gate)
    assert begins_within(gate, 5)


def test_a_fork_waits_no_longer_than_its_patience_and_then_again() -> None:
    clock = Clock()
    gate = ForkGate(clock)
    with gate.work():
        assert not may_fork(gate)
        clock.now += PATIENCE - 1
        assert not may_fork(gate)
        clock.now += 1
        assert may_fork(gate)
        assert not may_fork(gate)

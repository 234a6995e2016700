"""Ctrl-C while a command runs processes of its own: real signals, to this process and to others."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.cli.interrupts import Interrupts

#: Goes on as if it had not been interrupted.
STUBBORN = """
import sys, time
from pixcrawler_worker.cli import interrupts
with interrupts.handled() as interrupted, interrupted.last_resort(lambda: print("killed", flush=True)):
    for attempt in range(3):
        try:
            if attempt == 0:
                print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Receive signals that the parent of the tests may ignore, as nohup does."""
    defaults = {signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    # A signal is handled between two instructions.
    time.sleep(0.05)


@contextlib.contextmanager
def ending_interrupted() -> Iterator[Interrupts]:
    """Handle interrupts in a context that has to end as one that was interrupted."""
    try:
        with interrupts.handled() as interrupted:
            yield interrupted
    except KeyboardInterrupt:
        return
    pytest.fail("the interrupt was forgotten")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_raises_and_the_second_one_says_to_hurry(number: int) -> None:
    with ending_interrupted() as interrupted:
        with pytest.raises(KeyboardInterrupt):
            interrupt(number)
        assert not interrupted.hurry.is_set()
        interrupt(number)
        assert interrupted.hurry.is_set()
        interrupt(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_leaving_raises_at_the_end() -> None:
    reached = False
    with ending_interrupted() as interrupted:
        interrupted.leaving = True
        interrupt()
        reached = True
    assert reached


def test_contexts_of_one_process_share_what_was_received() -> None:
    with ending_interrupted() as outer, interrupts.handled() as inner:
        assert inner is outer is interrupts.current()
        interrupt()
    assert interrupts.current().count == 0


def test_what_was_ignored_at_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled() as interrupted:
            interrupt(signal.SIGHUP)
        assert interrupted.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_waiting_ends_sooner_after_an_interrupt_and_at_once_when_there_is_a_hurry() -> None:
    def never() -> bool:
        return False

    with ending_interrupted() as interrupted:
        assert interrupted.wait(lambda: True, seconds=0, interrupted=0)
        begun = time.monotonic()
        assert not interrupted.wait(never, seconds=0.2, interrupted=0)
        assert time.monotonic() - begun > 0.2
        interrupted.leaving = True
        interrupt()
        begun = time.monotonic()
        assert not interrupted.wait(never, seconds=60, interrupted=0.2)
        assert 0.1 < time.monotonic() - begun < 30
        interrupt()
        begun = time.monotonic()
        assert not interrupted.wait(never, seconds=60, interrupted=60)
        assert time.monotonic() - begun < 30


def test_a_process_that_hangs_ends_soon_after_the_second_interrupt() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.stdout.readline() == "killed\n"
        assert process.wait(timeout=20) == 130
        assert time.monotonic() - begun < 10  # two seconds, on an idle machine

"""Ctrl-C while a command runs processes of its own: the first one leaves in order, the next one at once.

Python's own way does not fit there. It raises KeyboardInterrupt at every Ctrl-C, a second one in the middle of what the
first one has begun: a process that is waited for is then left running, and what it needs is stopped before it.

Here only the first Ctrl-C raises, and none while the command is leaving already. The others shorten the waits.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import NoReturn

#: What a shell reports of a command that Ctrl-C has ended.
EXIT_CODE = 128 + signal.SIGINT
#: SIGHUP is sent when the terminal is closed, SIGTERM by a process manager.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds from the first Ctrl-C until processes are killed, and from then, or the second Ctrl-C, until this one ends.
_PATIENCE, _LAST_SECONDS = 7.0, 2.0
_POLL_SECONDS = 0.02


class Interrupts:
    """The interrupts of this process so far, and how long it may still wait for others.

    Attributes:
        count: interrupts so far.
        hurry: set when nothing may be waited for any more: what was started is to be killed.
        leaving: whether the command is stopping what it has started: an interrupt raises nothing then.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hurry = threading.Event()
        self.leaving = False
        self._first_at = 0.0
        self._timers: list[threading.Timer] = []
        self._last_resorts: list[Callable[[], object]] = []

    def wait(self, done: Callable[[], bool], *, seconds: float, interrupted: float) -> bool:
        """Poll `done` until it is true; return whether it is.

        Args:
            done: what is waited for.
            seconds: how long.
            interrupted: how long after the first interrupt, if there is one.
        """
        begun = time.monotonic()
        while not done():
            now = time.monotonic()
            late = bool(self.count) and now > max(begun, self._first_at) + interrupted
            if late or now > begun + seconds or self.hurry.is_set():
                return done()
            time.sleep(_POLL_SECONDS)
        return True

    @contextlib.contextmanager
    def last_resort(self, kill: Callable[[], object]) -> Iterator[None]:
        """Call `kill` if this process has to end while the context is still open."""
        self._last_resorts.append(kill)
        try:
            yield
        finally:
            self._last_resorts.remove(kill)

    def received(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del number, frame
        self.count += 1
        if self.count == 1:
            self._first_at = time.monotonic()
            self._later(_PATIENCE, self._hurry)
            if not self.leaving:
                raise KeyboardInterrupt
        else:
            self._hurry()

    def close(self) -> None:
        """Forget the interrupts so far: nothing is waited for any more."""
        for timer in self._timers:
            timer.cancel()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _hurry(self) -> None:
        if not self.hurry.is_set():
            self.hurry.set()
            self._later(_LAST_SECONDS, self._end)

    def _end(self) -> None:
        for kill in reversed(self._last_resorts):
            with contextlib.suppress(Exception):
                kill()
        os._exit(EXIT_CODE)


#: Of the open context; one that no signal reaches elsewhere.
_current = Interrupts()


def current() -> Interrupts:
    """Return the interrupts of the open context `handled`, or none."""
    return _current


@contextlib.contextmanager
def handled() -> Iterator[Interrupts]:
    """Handle SIGINT, SIGTERM and SIGHUP while the context is open, as described above. Contexts may be nested.

    Raises:
        KeyboardInterrupt: at the first interrupt; at the end of the context for one that came while it was leaving.
    """
    global _current  # noqa: PLW0603 - signals are of the whole process, too
    if signal.getsignal(signal.SIGINT) == _current.received or not _is_main_thread():
        yield _current
        return
    outer, _current = _current, Interrupts()
    mine = _current
    # What this process was started to ignore, with nohup or in the background, it ignores.
    handled_here = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, mine.received) for number in handled_here}
    try:
        yield mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        mine.close()
        _current = outer
    if mine.count:
        raise KeyboardInterrupt


def leave_at_once() -> None:
    """End this process without a word at the next Ctrl-C: it has nothing to put in order."""
    if _is_main_thread():
        signal.signal(signal.SIGINT, leave)


def load(name: str) -> ModuleType:
    """Return a module. A Ctrl-C meanwhile ends this process without a word: in an import it may be raised anywhere."""
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return _import(name)
    leave_at_once()
    try:
        return _import(name)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _import(name: str) -> ModuleType:
    """Import a module without collecting garbage, of which imports make none, and which takes a fifth of their time."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def leave(*_: object) -> NoReturn:
    """End this process now, as one that was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(EXIT_CODE)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

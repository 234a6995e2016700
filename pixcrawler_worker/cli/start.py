"""The entry point of `pixcrawler`: from its first line on, a Ctrl-C leaves without a word."""

import os
import signal
from types import FrameType
from typing import NoReturn

#: Of a command that Ctrl-C has ended; `interrupts.EXIT_CODE`, which is not imported yet.
_EXIT_CODE = 130


def main() -> NoReturn:
    """Run a command; see `cli.main`."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        # In an import KeyboardInterrupt may be raised anywhere, and nothing is there yet that has to be put in order.
        signal.signal(signal.SIGINT, _leave)
    from pixcrawler_worker.cli import main as commands  # noqa: PLC0415 - it imports click, which takes a while

    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    commands.main()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os._exit(_EXIT_CODE)

"""Bugs that single items of a chunk meet: logged, counted, and never the end of the chunk."""

import errno

import structlog

from pixcrawler_worker import metrics
from pixcrawler_worker.errors import OutageError
from pixcrawler_worker.masking import mask

log = structlog.get_logger()

#: Characters of the description of an error.
_MAX_DESCRIPTION = 200
#: The system's codes for what the machine has run out of: no item is to blame.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


class InternalErrors:
    """The bugs that the items of one chunk meet. The traceback of the first of each type is logged.

    Args:
        kind: of the job, as metrics name it.
        event: message of the log.
    """

    def __init__(self, kind: str, event: str) -> None:
        self._kind = kind
        self._event = event
        self._types: set[str] = set()

    def add(self, error: BaseException, **where: object) -> str:
        """Log an error that is no `WorkerError`, and return it in one line.

        Args:
            error: that an item met.
            where: the item, for the log.

        Raises:
            OutageError: when it says that the machine has run out of something, which the next item would meet too.
        """
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            raise OutageError(describe(error)) from error
        kind = type(error).__name__
        traceback = None if kind in self._types else error
        self._types.add(kind)
        line = describe(error)
        log.error(self._event, error=line, exc_info=traceback, **where)
        metrics.count_internal_error(self._kind)
        return line


def describe(error: BaseException) -> str:
    """Return an error in one line: one of a plug-in, too, whose own methods may fail."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error of a plug-in may do anything
        text = ""
    # Masked before it is cut: what is left of a URL may not look like one.
    return f"{type(error).__name__}: {' '.join(mask(text[:1000]).split())}"[:_MAX_DESCRIPTION].removesuffix(": ")

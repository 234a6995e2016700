"""The form of log lines: text for people on a console, or one JSON object per line for machines."""

import atexit
import io
import logging
import logging.handlers
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pixcrawler_worker.domain.safe_text import safe, safe_lines
from pixcrawler_worker.masking import mask_value

#: Loggers of libraries whose INFO entries are about the library itself; those of httpx hold URLs with their queries, in
#: which some providers want their key.
_NOISY = ("httpx", "alembic.runtime.migration", "celery.bootsteps", "kombu", "amqp")


def configure(style: Literal["console", "json"], *, level: int = logging.INFO, file: Path | None = None) -> None:
    """Write all entries of structlog and of the standard library in one style.

    Args:
        style: text for people, or JSON.
        level: the lowest that is written.
        file: where to, reopened when it is rotated; by default stderr.

    Raises:
        OSError: when the file cannot be written.
    """
    stderr = sys.stderr.stream if isinstance(sys.stderr, _Entries) else sys.stderr
    handler: logging.Handler = (
        logging.handlers.WatchedFileHandler(file, encoding="utf-8") if file else logging.StreamHandler(stderr)
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = [
        # Of a traceback the text alone, in which the values of local variables are not.
        structlog.processors.format_exc_info,
        _without_secrets,
    ]
    if style == "json":
        final.append(structlog.processors.JSONRenderer())
    else:
        colors = file is None and stderr.isatty()
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        final += [_for_terminals, renderer]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def capture() -> None:
    """Make a log entry of each line that this process would write past the log: of warnings, errors and libraries.

    For a log in which machines read every line. Call `configure` first. Calling it again changes nothing.
    """
    if isinstance(sys.stderr, _Entries):
        return
    logging.captureWarnings(capture=True)
    sys.stdout, sys.stderr = (
        _Entries(sys.stdout, "stdout", logging.INFO),
        _Entries(sys.stderr, "stderr", logging.WARNING),
    )
    # Celery writes to it directly, from the handlers of signals.
    sys.__stdout__ = sys.stdout  # type: ignore[misc, assignment]  # typeshed has it as final, Python does not
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    atexit.register(sys.stdout.finish)
    atexit.register(sys.stderr.finish)


def _without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what may be a secret in an entry of any logger: ours, Celery's, and those of other libraries."""
    masked: EventDict = mask_value(event)
    return masked


def _for_terminals(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make the texts of an entry safe. Its event is one line; of other values, the renderer escapes line ends."""
    made_safe = {name: safe_lines(value) if isinstance(value, str) else value for name, value in event.items()}
    return made_safe | {"event": safe(str(event.get("event", "")))}


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        found = (kind, error or kind(), traceback)
        logging.getLogger("pixcrawler_worker").critical("uncaught exception", exc_info=found)


class _Entries(io.TextIOBase):
    """A stream of which each line becomes a log entry.

    Attributes:
        stream: that it replaces.
    """

    def __init__(self, stream: TextIO, name: str, level: int) -> None:
        super().__init__()
        self.stream = stream
        self._logger, self._level = logging.getLogger(name), level
        # Of each thread: what it has written of a line, and whether it writes an entry at this moment.
        self._local = threading.local()

    def fileno(self) -> int:
        """Return None: there is nothing to write to past this object, which is what Celery asks."""
        return None  # type: ignore[return-value]

    def isatty(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Write an entry for each line that is complete with this text."""
        *lines, self._local.rest = (getattr(self._local, "rest", "") + text).split("\n")
        # A log that cannot be written says so on this very stream.
        if not getattr(self._local, "writing", False):
            self._local.writing = True
            try:
                for line in filter(str.strip, lines):
                    self._logger.log(self._level, "%s", line.rstrip())
            finally:
                self._local.writing = False
        return len(text)

    def finish(self) -> None:
        """Write an entry for the last line, if its end is missing."""
        if getattr(self._local, "rest", ""):
            self.write("\n")

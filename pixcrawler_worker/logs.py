"""The form of log lines: text for people on a console, or one JSON object per line for machines."""

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Literal

import structlog
from structlog.typing import Processor

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
    handler: logging.Handler = (
        logging.handlers.WatchedFileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if style == "json"
        # With rich installed, the default formatter shows local variables, among them the password of the database.
        else [
            structlog.dev.ConsoleRenderer(
                colors=file is None and sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
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

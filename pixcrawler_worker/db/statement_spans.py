"""A span for each statement of the database inside of the span of a job, where jobs are traced."""

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection, ExceptionContext

from pixcrawler_worker import tracing
from pixcrawler_worker.tracing import Span

#: Under this name, a connection keeps the span of its statement.
_KEY = "pixcrawler_span"
#: What each transaction begins with is no work of the job.
_SETTINGS = "SELECT set_config("


def listen(engine: Engine) -> None:
    """Make spans of the statements of an engine: their text, in which values are parameters that are not shown."""

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Connection, _cursor: Any, statement: str, *_: object) -> None:  # noqa: ANN401 - of the driver
        if (span := begin(statement)) is not None:
            connection.info[_KEY] = span

    @event.listens_for(engine, "after_cursor_execute")
    def note_end(connection: Connection, *_: object) -> None:
        if (span := _taken(connection)) is not None:
            span.end()

    @event.listens_for(engine, "handle_error")
    def note_error(context: ExceptionContext) -> None:
        if context.connection is not None and (span := _taken(context.connection)) is not None:
            fail(span, context.original_exception)


def begin(statement: str) -> Span | None:
    """Begin a span of a statement; None where no job is traced."""
    if not tracing.is_traced() or statement.startswith(_SETTINGS):
        return None
    words = statement.split(None, 1)
    operation = words[0].upper() if words else "statement"
    span = tracing.begin_step("db", operation)
    if span is not None:
        span.set("db.system.name", "postgresql")
        span.set("db.operation.name", operation)
        span.set("db.query.text", statement)
    return span


def fail(span: Span, error: BaseException) -> None:
    """End the span of a statement that failed, with the code of the error: its text may have values."""
    span.fail(getattr(error, "sqlstate", None) or type(error).__name__, "")
    span.end()


def _taken(connection: Connection) -> Span | None:
    return None if connection.invalidated else connection.info.pop(_KEY, None)

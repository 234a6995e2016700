"""The wire protocol's names: tasks, and the queue each one travels on; and what may be shown of their arguments."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum


class Queue(StrEnum):
    """Queues that a worker consumes; `-Q` narrows them."""

    CRAWL = "crawl"
    VALIDATION = "validation"
    EXPORT = "export"
    MAINTENANCE = "maintenance"


class Task(StrEnum):
    """Names of tasks. They are a contract with every API that enqueues: never renamed."""

    CRAWL_START = "pixcrawler.crawl.start"
    CRAWL_CHUNK = "pixcrawler.crawl.chunk"
    CRAWL_CANCEL = "pixcrawler.crawl.cancel"
    CRAWL_RETRY = "pixcrawler.crawl.retry"
    VALIDATION_START = "pixcrawler.validation.start"
    VALIDATION_CHUNK = "pixcrawler.validation.chunk"
    VALIDATION_CANCEL = "pixcrawler.validation.cancel"
    VALIDATION_RETRY = "pixcrawler.validation.retry"
    EXPORT_START = "pixcrawler.export.start"
    EXPORT_PART = "pixcrawler.export.part"
    EXPORT_CANCEL = "pixcrawler.export.cancel"
    EXPORT_RETRY = "pixcrawler.export.retry"
    SWEEP = "pixcrawler.maintenance.sweep"


QUEUES: dict[Task, Queue] = {
    Task.CRAWL_START: Queue.CRAWL,
    Task.CRAWL_CHUNK: Queue.CRAWL,
    Task.CRAWL_CANCEL: Queue.MAINTENANCE,
    Task.CRAWL_RETRY: Queue.CRAWL,
    Task.VALIDATION_START: Queue.VALIDATION,
    Task.VALIDATION_CHUNK: Queue.VALIDATION,
    Task.VALIDATION_CANCEL: Queue.MAINTENANCE,
    Task.VALIDATION_RETRY: Queue.VALIDATION,
    Task.EXPORT_START: Queue.EXPORT,
    Task.EXPORT_PART: Queue.EXPORT,
    Task.EXPORT_CANCEL: Queue.MAINTENANCE,
    Task.EXPORT_RETRY: Queue.EXPORT,
    Task.SWEEP: Queue.MAINTENANCE,
}

#: Tasks whose messages the ledger sends, and sends again when they are lost.
CHUNK_TASKS = frozenset({Task.CRAWL_CHUNK, Task.VALIDATION_CHUNK, Task.EXPORT_PART})

#: What stands for an argument that is not shown.
HIDDEN = "..."
#: Names of arguments that are ids, or have no value that is shown.
_ARGUMENTS = {"crawl_job_id", "validation_job_id", "export_job_id", "job_id", "chunk_id", "options"}
#: Bits of an id.
_MAX_BITS = 64
_FIRST = re.compile(r"[\[(]\s?(-?[0-9]{1,20})[,)\]]")


def shown_arguments(arguments: Sequence[object]) -> list[int | str]:
    """Return what monitoring shows of the arguments of a message: ids, and a placeholder for anything else.

    Options hold links that may be signed, and other messages anything at all. They are in the message alone, and in the
    rows that the worker writes.
    """
    return [_shown(one) for one in arguments[:10]]


def shown_keywords(keywords: Mapping[str, object]) -> dict[str, int | str]:
    """Return the same of keyword arguments; a name that no task has may be a secret, too."""
    return {name if name in _ARGUMENTS else HIDDEN: _shown(value) for name, value in keywords.items()}


def arguments_text(arguments: Sequence[object]) -> str:
    """Return arguments as monitoring shows them, in the form of a tuple: `(42, ...)`."""
    shown = [str(one) for one in shown_arguments(arguments)]
    return f"({shown[0]},)" if len(shown) == 1 else f"({', '.join(shown)})"


def keywords_text(keywords: Mapping[str, object]) -> str:
    """Return keyword arguments as monitoring shows them, in the form of a dictionary: `{'crawl_job_id': 42}`."""
    return "{" + ", ".join(f"{name!r}: {one}" for name, one in shown_keywords(keywords).items()) + "}"


def hidden_text(text: str) -> str:
    """Return what may be shown of the text of arguments by another program: an id at its beginning."""
    if text in {"", "()", "[]", "{}"}:
        return text
    if text.startswith("{"):
        return f"{{{HIDDEN}}}"
    first = _FIRST.match(text)
    is_all = first is not None and text[first.end() - 1 :] in {",)", ")", "]"}
    return f"({first[1]}{',' if is_all else f', {HIDDEN}'})" if first else f"({HIDDEN})"


def _shown(value: object) -> int | str:
    is_id = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _MAX_BITS
    return int(value) if is_id and isinstance(value, int) else HIDDEN

"""All errors that this package raises for others to handle, named by what the caller does next.

    WorkerError
    ├── TransientError          try again later, after `retry_after` where the other side names a time
    │   └── OutageError         the database or the storage is unavailable: wait for it, at no cost to what waits
    ├── PermanentError          change something first; the message says what
    │   ├── UnknownJobError     there is no such job: drop the message
    │   ├── FileMissingError    storage has no such file (`storage`)
    │   └── EmbeddedError       an embedded service cannot run here (`embedded.services`)
    └── RejectedError           count the reason of this one candidate or image, and go on (`domain.reasons`)

A rejection is not a failure of the job: where a URL or a file is all that a caller needs, it raises `PermanentError`
from the rejection. Anything else that is raised is a bug and reaches the log with its traceback.
"""

from datetime import timedelta

#: Digits of an id that an error quotes.
_MAX_SHOWN = 100


class WorkerError(Exception):
    """Base of all errors that the callers of this package handle.

    Its text has no secrets: it goes into logs, rows, and answers of an API.

    Args:
        message: what failed, in one line; passwords, tokens and queries of URLs in it are masked.
    """

    def __init__(self, message: str = "", *arguments: object) -> None:
        # Only for an error: the client of an API brings as little as it can.
        from pixcrawler_worker.masking import mask  # noqa: PLC0415

        super().__init__(*([mask(message)] if message else []), *arguments)


class TransientError(WorkerError):
    """A failure that passes: the same call may succeed later.

    Args:
        message: what failed, and for which object, in one line.
        retry_after: how long to wait before the next attempt, where the other side says so.
    """

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutageError(TransientError):
    """The service's own database or storage is unavailable, full, or denies access: none of its jobs is to blame.

    Args:
        message: as of `TransientError`.
        may_be_one_file: whether it may be trouble of one file alone, which is denied or damaged. The caller finds out
            whether others can be read.
    """

    def __init__(self, message: str, *, may_be_one_file: bool = False) -> None:
        super().__init__(message)
        self.may_be_one_file = may_be_one_file


class PermanentError(WorkerError):
    """A failure that waiting does not end: something has to be changed first, and the message says what."""


class UnknownJobError(PermanentError):
    """There is no job of that kind and id.

    Args:
        kind: of the job.
        job_id: the id, which is any JSON value where it comes from a message: one that is no id is not repeated.
    """

    def __init__(self, kind: str, job_id: object) -> None:
        shown = repr(job_id)[:_MAX_SHOWN] if isinstance(job_id, int) else f"whose id is a {type(job_id).__name__}"
        super().__init__(f"there is no {kind} job {shown}")

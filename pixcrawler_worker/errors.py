"""The two failures a caller tells apart."""

from datetime import timedelta


class TransientError(Exception):
    """Trouble that may pass: the same call may succeed later.

    Args:
        message: what happened, to whom, in one line.
        retry_after: how long the other side asked to be left alone, when it said so.
    """

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(Exception):
    """Trouble that will not pass: somebody has to change something first, and the message says what."""


class UnknownJobError(PermanentError):
    """There is no job of that kind and id."""

    def __init__(self, kind: str, job_id: object) -> None:
        super().__init__(f"there is no {kind} job {job_id!r}")

"""Translate errors of obstore and of the system into those of the worker."""

import contextlib
import re
from collections.abc import Iterator

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from pixcrawler_worker.errors import PermanentError, TransientError

#: An invalid key, for example one that leads out of the storage, has no file either.
_MISSING = (NotFoundError, FileNotFoundError, InvalidPathError, ValueError)
_PERMANENT = (NotSupportedError, PermissionDeniedError, UnauthenticatedError, PermissionError)
_DENIED = re.compile(r"status code: 40[13]\b")
#: The error code in a response of S3.
_CODE = re.compile(r"<Code>(\w+)</Code>", re.ASCII)


class FileMissingError(PermanentError):
    """There is no file under that key."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate the errors of obstore and of the system.

    Args:
        what: what failed, for the message.

    Raises:
        FileMissingError: when there is no such file.
        TransientError: when the storage is full or unavailable.
        PermanentError: when it denies access.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_error(what, error) from error


def of_error(what: str, error: Exception) -> TransientError | PermanentError:
    """Return the error of the worker for one of obstore or of the system."""
    if "<Code>NoSuchBucket</Code>" in str(error):
        return PermanentError(f"{what}: there is no such bucket")
    if isinstance(error, _MISSING):
        return FileMissingError(f"{what}: there is no such file")
    # Some requests, lists among them, raise a general error when access is denied.
    if isinstance(error, _PERMANENT) or _DENIED.search(str(error)):
        return PermanentError(f"{what}: {first_line(error)}")
    return TransientError(f"{what}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """Return the message without the internals that obstore adds on the lines below.

    Of the XML document in a response of S3, only the error code is kept.
    """
    line = str(error).partition("\n")[0].partition(": <")[0]
    code = _CODE.search(str(error))
    return f"{line}: {code[1]}" if code else line

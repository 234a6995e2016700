"""What an error of the storage means for the caller."""

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

#: A key that is invalid, one that leads out of the storage for example, has no file either.
_MISSING = (NotFoundError, FileNotFoundError, InvalidPathError, ValueError)
_PERMANENT = (NotSupportedError, PermissionDeniedError, UnauthenticatedError, PermissionError)
_DENIED = re.compile(r"status code: 40[13]\b")
#: What went wrong, in a server's response.
_CODE = re.compile(r"<Code>(\w+)</Code>", re.ASCII)


class FileMissingError(PermanentError):
    """Nothing is stored under that key."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate the errors of obstore and of the system.

    Args:
        what: what could not be done, for the message.

    Raises:
        FileMissingError: when there is no such file.
        TransientError: when the storage is full, busy or away.
        PermanentError: when it denies access.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_error(what, error) from error


def of_error(what: str, error: Exception) -> TransientError | PermanentError:
    """Return the worker's error for one of obstore or of the system."""
    if "<Code>NoSuchBucket</Code>" in str(error):
        return PermanentError(f"{what}: there is no such bucket")
    if isinstance(error, _MISSING):
        return FileMissingError(f"{what}: there is no such file")
    # Some requests, lists among them, have no error of their own for a denial.
    if isinstance(error, _PERMANENT) or _DENIED.search(str(error)):
        return PermanentError(f"{what}: {first_line(error)}")
    return TransientError(f"{what}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """Return what happened, without obstore's dump of its internals on the lines below.

    A server's response is a document, of which the code is quoted.
    """
    line = str(error).partition("\n")[0].partition(": <")[0]
    code = _CODE.search(str(error))
    return f"{line}: {code[1]}" if code else line

"""Translate errors of obstore and of the system into those of the worker."""

import contextlib
import errno
import re
from collections.abc import Iterator

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
)

from pixcrawler_worker import metrics
from pixcrawler_worker.errors import OutageError, PermanentError

#: An invalid key, for example one that leads out of the storage, has no file either.
_MISSING = (NotFoundError, FileNotFoundError, InvalidPathError, ValueError)
#: A file in the place of a folder, or the reverse: about this key, and not about the storage.
_PERMANENT = (NotSupportedError, IsADirectoryError, NotADirectoryError, FileExistsError)
#: The system's codes for paths that no file can have, for links, and for sockets and devices.
_IMPOSSIBLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP}
#: The system's codes for a file that it denies or cannot read, whatever it does with others.
_OF_A_FILE = {errno.EACCES, errno.EPERM, errno.EIO}
#: How obstore passes the codes of the system on.
_OS_ERROR = re.compile(r"\(os error (\d+)\)", re.ASCII)
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
        OutageError: when the storage is full, read only, unavailable, or denies access.
        PermanentError: when there can be no such file, or no such bucket exists.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_error(what, error) from error


def of_error(what: str, error: Exception) -> OutageError | PermanentError:
    """Return the error of the worker for one of obstore or of the system.

    Denied access is an outage too: credentials are rotated, and volumes mounted again, while jobs run.
    """
    if "<Code>NoSuchBucket</Code>" in str(error):
        return PermanentError(f"{what}: there is no such bucket")
    if "<Code>KeyTooLongError</Code>" in str(error):
        return FileMissingError(f"{what}: the key is too long for the bucket")
    if isinstance(error, _MISSING):
        return FileMissingError(f"{what}: there is no such file")
    if _os_code(error) in _IMPOSSIBLE:
        return FileMissingError(f"{what}: {first_line(error)}")
    if isinstance(error, _PERMANENT):
        return PermanentError(f"{what}: {first_line(error)}")
    may_be_one_file = isinstance(error, PermissionDeniedError) or _os_code(error) in _OF_A_FILE
    return outage(f"{what}: {first_line(error)}", may_be_one_file=may_be_one_file)


def outage(message: str, *, may_be_one_file: bool = False) -> OutageError:
    """Return the error of a storage that is unavailable, see `OutageError`, and count it for metrics."""
    metrics.STORAGE_ERRORS.add()
    return OutageError(message, may_be_one_file=may_be_one_file)


def _os_code(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """Return the message without the internals that obstore adds on the lines below.

    Of the XML document in a response of S3, only the error code is kept.
    """
    line = str(error).partition("\n")[0].partition(": <")[0]
    code = _CODE.search(str(error))
    return f"{line}: {code[1]}" if code else line

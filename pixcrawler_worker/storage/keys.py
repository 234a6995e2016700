"""Keys of files in storage: one check for all kinds of storage."""

import re

from pixcrawler_worker.storage.failures import FileMissingError

#: Limits in bytes: of a key (Amazon S3, "Naming Amazon S3 objects"), and of one of its parts (`NAME_MAX` of Linux and
#: macOS).
MAX_KEY_BYTES, MAX_PART_BYTES = 1024, 255
#: Keys as this service writes them, which need no other checks but that of the length.
_PLAIN = re.compile(r"[\w-][\w.-]{0,254}(?:/[\w-][\w.-]{0,254})*", re.ASCII)
#: Controls end lines of lists and logs, and a backslash divides folders on some systems.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\\\\]")
#: Characters of a key that an error quotes.
_MAX_QUOTE = 80


def key_parts(key: str, *, max_bytes: int = MAX_KEY_BYTES) -> list[str]:
    """Return the parts of a key.

    Other programs may have written it: any characters are possible but controls and backslashes.

    Args:
        key: relative, with `/` between its parts.
        max_bytes: limit of its length in UTF-8.

    Raises:
        FileMissingError: when there can be no file under it: it is empty or too long, leads out of the storage, or has
            characters that a key cannot have.
    """
    found = key.split("/")
    if _PLAIN.fullmatch(key) and len(key) <= max_bytes:
        return found
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _invalid(key, "it has half a surrogate pair") from None
    if size > max_bytes:
        raise _invalid(key, f"it is too long: {size:,} bytes of at most {max_bytes:,}")
    if any(part in {"", ".", ".."} for part in found):
        raise _invalid(key, "it has a part that is empty, `.` or `..`")
    if _FORBIDDEN.search(key):
        raise _invalid(key, "it has a control character or a backslash")
    if any(len(part.encode()) > MAX_PART_BYTES for part in found):
        raise _invalid(key, f"it has a part that is too long: at most {MAX_PART_BYTES} bytes are possible")
    return found


def is_key(key: str) -> bool:
    """Return whether there can be a file under a key: a list has whatever another program has stored."""
    try:
        key_parts(key)
    except FileMissingError:
        return False
    return True


def prefix_parts(prefix: str) -> list[str]:
    """Return the parts of a prefix, which ends with a `/` or is empty. Raises as `key_parts`."""
    return key_parts(prefix.removesuffix("/")) if prefix else []


def _invalid(key: str, why: str) -> FileMissingError:
    shown = ascii(key[:_MAX_QUOTE])
    shown = shown if len(shown) <= _MAX_QUOTE and len(key) <= _MAX_QUOTE else f"{shown[:_MAX_QUOTE]}..."
    return FileMissingError(f"there can be no file under the key {shown}: {why}")

"""Lists of images to leave out, as `pixcrawler browse` saves them and `--exclude` reads them.

    {"version": 1, "job": 3, "exclude_images": [{"id": 17, "sha256": "9f86d081..."}, ...]}

An image is known by the SHA-256 of its stored file, so that a list holds for other jobs with the same image, too; what
else an entry has is for people. A list may also be an array alone, and an entry a SHA-256 alone.
"""

import re

from pixcrawler_worker.errors import PermanentError

VERSION = 1
#: The key of the array in the object.
KEY = "exclude_images"
#: Images in a list: 6.6 MB of JSON in a row.
MAX_EXCLUDED = 100_000

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MAX_QUOTE = 60


def digests(content: object) -> list[str]:
    """Return the SHA-256 in a list, as lower-case hexadecimal digits, each one once.

    Args:
        content: the JSON value in the file.

    Raises:
        PermanentError: when it is no such list, or one of a newer version; the message says what is wrong.
    """
    if isinstance(content, dict):
        version = content.get("version", VERSION)
        if version != VERSION or isinstance(version, bool):
            raise PermanentError(
                f"this program reads lists of version {VERSION}, got version {version!r:.{_MAX_QUOTE}}: update it"
            )
        content = content.get(KEY)
    if not isinstance(content, list):
        raise PermanentError(f"expected an array of SHA-256, or an object with one as {KEY}")
    found = list(dict.fromkeys(_digest(entry, position) for position, entry in enumerate(content)))
    if len(found) > MAX_EXCLUDED:
        raise PermanentError(f"expected at most {MAX_EXCLUDED:,} images, got {len(found):,}")
    return found


def _digest(entry: object, position: int) -> str:
    digest = entry.get("sha256") if isinstance(entry, dict) else entry
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        shown = "null" if digest is None else f"{digest!r:.{_MAX_QUOTE}}"
        raise PermanentError(f"[{position}]: expected a SHA-256 in 64 hexadecimal digits, got {shown}")
    return digest.lower()

"""The lists of placeholder images: the one of the package, and the user's."""

from pathlib import Path

from pixcrawler_worker.domain import placeholders
from pixcrawler_worker.domain.placeholders import Placeholders
from pixcrawler_worker.errors import PermanentError

#: The list of the package. It has patterns of URLs only.
SHIPPED = Path(__file__).with_name("placeholders.txt")


def load(more: Path | None = None) -> Placeholders:
    """Return the known placeholders.

    Args:
        more: a file with further ones, in UTF-8.

    Raises:
        PermanentError: when a file cannot be read, or has a broken line; the message names both.
    """
    known = _read(SHIPPED)
    return known if more is None else known | _read(more)


def _read(path: Path) -> Placeholders:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{path} cannot be read: expected a text file in UTF-8") from error
    return placeholders.parse(text.split("\n"), str(path))

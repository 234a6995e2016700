"""Labels of images: the names of classes, as folders and file names have them."""

import functools
import hashlib
import re
from collections.abc import Iterable

from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.domain.safe_text import normalized, safe
from pixcrawler_worker.errors import PermanentError

#: Label of images without one, in a job of several keywords.
UNLABELED = "unlabelled"
#: Characters of a label in files; keywords have no longer ones.
MAX_LENGTH = 200
#: Names that Windows does not allow for files ("Naming Files, Paths, and Namespaces", Microsoft).
_DEVICE = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")

#: Words that Hugging Face's `datasets` takes for a split in the name of any file or folder, where no letters are next
#: to them. Source: its SPLIT_KEYWORDS and NON_WORDS_CHARS (datasets/data_files.py).
_SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9/])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9/])"
)


def default_label(raw: object) -> str:
    """Return the label of a crawl job's images that have none: that of its keyword, if it has exactly one.

    Args:
        raw: the keywords of the job's row, valid or not.
    """
    try:
        found = parse_keywords(raw)
    except PermanentError:
        return UNLABELED
    return found[0].label if len(found) == 1 else UNLABELED


def labels_of(raw: object) -> tuple[str, ...]:
    """Return the labels of a crawl job's keywords, no one twice. Images of a list may have others.

    Args:
        raw: the keywords of the job's row, valid or not.
    """
    try:
        return tuple(dict.fromkeys(keyword.label for keyword in parse_keywords(raw)))
    except PermanentError:
        return ()


def file_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return labels as the files of a dataset have them: safe texts, no two the same.

    A label that has to be changed gets a digest where another one looks like it.
    """
    listed = list(labels)
    found = {label: label for label in listed if _is_safe(label)}
    taken = set(found)
    for label in listed:
        if label in found:
            continue
        digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()
        plain = safe(label, max_length=MAX_LENGTH).strip()
        names = (plain, f"{plain[: MAX_LENGTH - 9]}-{digest[:8]}".strip("-"), digest)
        found[label] = next(name for name in names if name and name not in taken)
        taken.add(found[label])
    return {label: found[label] for label in listed}


def _is_safe(label: str) -> bool:
    return bool(label.strip()) and safe(label, max_length=MAX_LENGTH) == label


@functools.lru_cache(maxsize=4096)  # called for every image, and many have the same label
def slug(label: str) -> str:
    """Return the label as a folder's name: ASCII letters, digits, `-` and `_`, at most 50 characters.

    The name of a label that loses characters (another script, a slash, capital letters), has a hyphen of its own or is
    the name of a device on Windows ends in a short digest. So two labels never share a folder, not even on a file
    system that ignores case.
    """
    plain = plain_name(label)
    if plain == label.replace(" ", "-") and "-" not in label and not is_device_name(plain):
        return plain
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest


@functools.lru_cache(maxsize=4096)  # called for every image
def class_folder(label: str) -> str:
    """Return the label as the name of a class's folder in a dataset, at most 60 characters: its slug, mostly.

    A slug that readers take for a split, as those of `train` and `test tube`, has the word in the plural, and a digest,
    so that it differs from the slugs of all other labels.
    """
    name = slug(label)
    if not has_split_word(name):
        return name
    plural = without_split_words(name)
    digest = hashlib.sha256(label.encode()).hexdigest()[:8]
    return plural if plural.endswith(f"-{digest}") else f"{plural}-{digest}"


def without_split_words(name: str) -> str:
    """Return a name with the words in the plural that readers take for a split."""
    return _SPLIT_WORD.sub(r"\1s", name)


def has_split_word(name: str) -> bool:
    """Return whether readers take a file or folder of that name for a split."""
    return _SPLIT_WORD.search(name) is not None


def is_device_name(name: str) -> bool:
    """Return whether a lower-case name is that of a device on Windows, where no file has it, with any extension."""
    return _DEVICE.fullmatch(name) is not None


def plain_name(text: str) -> str:
    """Return a text as part of a file's name: ASCII letters, digits, `-` and `_`, at most 40, possibly none."""
    plain = normalized("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:40].strip("-")

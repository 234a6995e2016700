"""The rules by which readers take the names of files and folders for splits."""

import re
from collections.abc import Iterable

#: Of Hugging Face's `datasets`: SPLIT_KEYWORDS and NON_WORDS_CHARS in datasets/data_files.py.
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SEPARATORS = "-._ 0-9"
_WORDS = re.compile("train|test|valid|val|dev|eval", re.IGNORECASE)


def splits_in(path: str) -> set[str]:
    """Return the splits that `datasets` finds in a path: KEYWORDS_IN_FILENAME_BASE_PATTERNS and ...IN_DIR_NAME..."""
    *folders, name = path.split("/")
    return {
        split
        for split, keywords in KEYWORDS.items()
        for keyword in keywords
        if re.match(f"(?:.*[{_SEPARATORS}])?{keyword}[{_SEPARATORS}]", name)
        or any(re.fullmatch(f"(?:.*[{_SEPARATORS}])?{keyword}(?:[{_SEPARATORS}].*)?", folder) for folder in folders)
    }


def suspicious(paths: Iterable[str]) -> list[str]:
    """Return the paths that have the name of a split anywhere in the name of a file that is no image."""
    images = (".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".avif")
    return [path for path in paths if not path.endswith(images) and _WORDS.search(path.rpartition("/")[2])]

"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable

#: Similarity from which on a known name is suggested, 0 to 1.
_MIN_SIMILARITY = 0.6
#: Longer names get no suggestion: comparing takes time.
_MAX_LENGTH = 200


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None when none is similar."""
    if len(name) > _MAX_LENGTH:
        return None
    by_folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, 1, _MIN_SIMILARITY)
    return by_folded[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the name that was probably meant, or all known names."""
    listed = list(known)
    if near := nearest(name, listed):
        return f"did you mean {near!r}?"
    return f"known are {', '.join(listed) or 'none'}"

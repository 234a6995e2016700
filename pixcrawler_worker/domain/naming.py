"""Names that somebody mistyped."""

import difflib
from collections.abc import Iterable

#: How much of a name has to be right for the other part to be taken for a slip.
_LIKENESS = 0.6


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None when nothing is like it."""
    by_folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, 1, _LIKENESS)
    return by_folded[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the one that was probably meant, or all there are."""
    listed = list(known)
    if near := nearest(name, listed):
        return f"did you mean {near!r}?"
    return f"known are {', '.join(listed) or 'none'}"

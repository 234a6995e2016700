"""Classifiers that others bring: the one file to read before writing one.

A classifier is a function that an installed package names under the entry-point group `pixcrawler.classifiers`. It
takes a picture and returns a score; rules say above which score something is found:

    {"classifiers": {"watermark": {"severity": "error", "score_above": 0.8}}}
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError

GROUP = "pixcrawler.classifiers"
#: Longer side of the pictures that classifiers get.
SIDE = 256

#: Takes a JPEG of at most 256 pixels a side, upright, written by the worker's own decoder: it is safe to open. Returns
#: a score, the higher the surer. Called in a thread, one picture after the other.
Classifier = Callable[[bytes], float]


def installed() -> Mapping[str, EntryPoint]:
    """Return the names of all installed classifiers."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def require(names: Iterable[str]) -> None:
    """Return when all of them are installed.

    Raises:
        PermanentError: when one is not; the message has the nearest name.
    """
    known = installed()
    for name in names:
        if name not in known:
            raise PermanentError(f"there is no classifier {name!r}; {hint(name, known)}")


def load(names: Iterable[str]) -> dict[str, Classifier]:
    """Return classifiers by name.

    Raises:
        PermanentError: when one is not installed, or its package is broken.
    """
    wanted = list(names)
    require(wanted)
    known = installed()
    try:
        return {name: known[name].load() for name in wanted}
    except (ImportError, AttributeError) as error:
        raise PermanentError(f"a classifier cannot be loaded: {error}") from error


def score(classifier: Classifier, picture: bytes) -> float | str:
    """Return a classifier's score, or in a few words why it has none: its bugs cost no image its verdict."""
    try:
        return float(classifier(picture))
    except Exception as error:  # noqa: BLE001 - what a stranger's code raises is for the one who reads the verdict
        return f"failed: {type(error).__name__}: {error}"[:200]

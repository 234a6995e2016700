"""Classifiers that others bring: the one file to read before writing one.

A classifier is a function that an installed package names under the entry-point group `pixcrawler.classifiers`. It
takes a picture and returns a score; rules say above which score something is found:

    {"classifiers": {"watermark": {"severity": "error", "score_above": 0.8}}}
"""

from collections.abc import Callable, Iterable

from pixcrawler_worker.plugins import Plugins

CLASSIFIERS = Plugins("classifier")
#: Longer side of the pictures that classifiers get.
SIDE = 256

#: Takes a JPEG of at most 256 pixels a side, upright, written by the worker's own decoder: it is safe to open. Returns
#: a score, the higher the surer. Called in a thread, one picture after the other.
Classifier = Callable[[bytes], float]


def load(names: Iterable[str]) -> dict[str, Classifier]:
    """Return classifiers by name.

    Raises:
        PermanentError: when one is not installed, or its package is broken.
    """
    return {name: CLASSIFIERS.load(name) for name in names}


def score(classifier: Classifier, picture: bytes) -> float | str:
    """Return a classifier's score, or in a few words why it has none: its bugs cost no image its verdict."""
    try:
        return float(classifier(picture))
    except Exception as error:  # noqa: BLE001 - what a stranger's code raises is for the one who reads the verdict
        return f"failed: {type(error).__name__}: {error}"[:200]

"""Classifiers as plug-ins: the one file to read before writing one.

A classifier is a function that an installed package names in the entry-point group `pixcrawler.classifiers`. It takes
an image and returns a score; the rules have the threshold above which the score is a finding:

    {"classifiers": {"watermark": {"severity": "error", "score_above": 0.8}}}
"""

from collections.abc import Callable, Iterable

from pixcrawler_worker.plugins import Plugins

CLASSIFIERS = Plugins("classifier")
#: Longer side in pixels of the images that classifiers get.
SIDE = 256

#: Takes a JPEG of at most 256 pixels a side, upright, which the decoder of the worker wrote: it is safe to decode.
#: Returns a score. Runs in a thread, for one image after the other.
Classifier = Callable[[bytes], float]


def load(names: Iterable[str]) -> dict[str, Classifier]:
    """Return classifiers by name.

    Raises:
        PermanentError: when one is not installed, or its package is broken.
    """
    return {name: CLASSIFIERS.load(name) for name in names}


def score(classifier: Classifier, jpeg: bytes) -> float | str:
    """Return the score of a classifier, or an error message: its bugs do not prevent a validation result."""
    try:
        return float(classifier(jpeg))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the finding shows it
        return f"failed: {type(error).__name__}: {error}"[:200]

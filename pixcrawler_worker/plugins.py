"""Plug-ins: the entry points of installed packages, by group and name."""

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError


class Plugins:
    """All plug-ins of a kind.

    Args:
        kind: a singular noun, for messages; the group of the entry points is `pixcrawler.<kind>s`.
    """

    def __init__(self, kind: str) -> None:
        self.group = f"pixcrawler.{kind}s"
        self._kind = kind

    def installed(self) -> Mapping[str, EntryPoint]:
        """Return the entry points of all installed plug-ins, sorted by name."""
        return _installed(self.group, tuple(sys.path))

    def require(self, name: str) -> EntryPoint:
        """Return the entry point of the plug-in of that name.

        Raises:
            PermanentError: when it is not installed; the message has the nearest name.
        """
        known = self.installed()
        if name not in known:
            raise PermanentError(f"there is no {self._kind} {name!r}; {hint(name, known)}")
        return known[name]

    def load(self, name: str) -> Any:  # noqa: ANN401 - an object of the other package
        """Return the plug-in of that name.

        Raises:
            PermanentError: when it is not installed, or its package is broken.
        """
        point = self.require(name)
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise PermanentError(f"{self._kind} {name!r} cannot be loaded from {point.value}: {error}") from error


@functools.lru_cache(maxsize=16)  # reading them takes 4 ms, and an export does so four times
def _installed(group: str, paths: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    del paths  # a part of the cache key: other paths have other packages
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}

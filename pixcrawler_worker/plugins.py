"""Plug-ins: what installed packages name under entry-point groups, found by name and told of when it is not there."""

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
        what: the kind, as messages call one of them; the group is `pixcrawler.<what>s`.
    """

    def __init__(self, what: str) -> None:
        self.group = f"pixcrawler.{what}s"
        self._what = what

    def installed(self) -> Mapping[str, EntryPoint]:
        """Return where each of them is, by name, sorted."""
        return _installed(self.group, tuple(sys.path))

    def require(self, name: str) -> EntryPoint:
        """Return where the one of that name is.

        Raises:
            PermanentError: when none of that name is installed; the message has the nearest one.
        """
        known = self.installed()
        if name not in known:
            raise PermanentError(f"there is no {self._what} {name!r}; {hint(name, known)}")
        return known[name]

    def load(self, name: str) -> Any:  # noqa: ANN401 - what a package puts there
        """Return the one of that name.

        Raises:
            PermanentError: when none of that name is installed, or its package is broken.
        """
        point = self.require(name)
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise PermanentError(f"{self._what} {name!r} cannot be loaded from {point.value}: {error}") from error


@functools.lru_cache(maxsize=16)  # four milliseconds, asked four times for an export
def _installed(group: str, paths: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    del paths  # where packages are looked for: with others there are others
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}

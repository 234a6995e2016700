"""How many connections all workers together may have to a host."""

from collections.abc import Mapping

#: Connections of all workers together, for hosts that publish how many they allow:
#: https://wikitech.wikimedia.org/wiki/Robot_policy, and https://www.mediawiki.org/wiki/API:Etiquette (in series).
PUBLISHED: Mapping[str, int] = {"upload.wikimedia.org": 2, "commons.wikimedia.org": 1}


class HostLimits:
    """The limits of hosts that have one.

    Args:
        limits: connections of all workers together, by host; those of `PUBLISHED` where it has no other.
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = {**PUBLISHED, **(limits or {})}

    def of(self, host: str) -> int | None:
        """Return how many connections all workers together may have to a host; None without such a limit."""
        named = self.named(host)
        return None if named is None else self._limits[named]

    def named(self, host: str) -> str | None:
        """Return the name by which a host has a limit; None without one."""
        return next((name for name in (host, host.rpartition(":")[0]) if name in self._limits), None)

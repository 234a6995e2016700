"""The order in which the candidates of a chunk are tried: as listed, except that none waits for the host of another."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from pixcrawler_worker.crawl.progress import Offer
from pixcrawler_worker.web.hosts import Hosts


class CandidateQueue:
    """Candidates that wait for their turn.

    Args:
        offers: the candidates.
        hosts: say which host has a place now.
    """

    def __init__(self, offers: Iterable[Offer], hosts: Hosts) -> None:
        self._waiting = sorted(offers, key=_order)
        self._hosts = hosts

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._waiting)

    def next(self, now: float, begun: Mapping[str | None, int] = MappingProxyType({})) -> Offer | None:
        """Take the first candidate that is due and whose host has a place; None when there is none.

        Args:
            now: by the monotonic clock.
            begun: downloads by host that were begun just now, and may not hold their places yet.
        """
        full: set[str] = set()
        for at, offer in enumerate(self._waiting):
            if offer.due > now or offer.host in full:
                continue
            if offer.host is not None and not self._hosts.places(offer.host, begun=begun.get(offer.host, 0)):
                full.add(offer.host)
                continue
            del self._waiting[at]
            return offer
        return None

    def put_back(self, offer: Offer) -> None:
        """Queue a candidate again, at its place."""
        insort(self._waiting, offer, key=_order)

    def delay(self, host: str, until: float) -> None:
        """Let the candidates of a host wait until a time of the monotonic clock, at least."""
        for offer in self._waiting:
            if offer.host == host:
                offer.due = max(offer.due, until)

    def take_all(self, host: str) -> list[Offer]:
        """Take the candidates of a host."""
        taken = [offer for offer in self._waiting if offer.host == host]
        self._waiting = [offer for offer in self._waiting if offer.host != host]
        return taken

    def has(self, host: str | None) -> bool:
        """Return whether candidates of a host wait."""
        return any(offer.host == host for offer in self._waiting)

    def wait(self, now: float) -> float:
        """Return the seconds until the first candidate may be tried, by what is known now."""
        return min((max(offer.due - now, self._closed_for(offer)) for offer in self._waiting), default=0.0)

    def by_host(self) -> Counter[str]:
        """Return how many candidates wait for each host."""
        return Counter(offer.host for offer in self._waiting if offer.host is not None)

    def _closed_for(self, offer: Offer) -> float:
        closed = self._hosts.closed(offer.host) if offer.host is not None else None
        return closed.wait.total_seconds() if closed else 0.0


def _order(offer: Offer) -> tuple[bool, int]:
    return offer.late, offer.position

"""The downloads of one process: how many run, how many more it takes to use all its slots."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Share:
    """What one chunk has of the slots, and how many of them it could use."""

    taken: int = 0
    wanted: int = 0


@dataclass(slots=True)
class FetchSlots:
    """The slots that the chunks of one process have in common. A chunk goes by the fence of its claim.

    Attributes:
        limit: downloads at a time, without those that are slow.
    """

    limit: int
    _shares: dict[int, _Share] = field(default_factory=dict)

    def free(self, chunk: int) -> int:
        """Return how many downloads a chunk may have: what the others leave, and always one."""
        others = sum(share.taken for user, share in self._shares.items() if user != chunk)
        return max(1, self.limit - others)

    def note(self, chunk: int, *, taken: int, wanted: int) -> None:
        """Note how many slots a chunk has, and how many it could use now, with those."""
        self._shares[chunk] = _Share(taken, wanted)

    def leave(self, chunk: int) -> None:
        """Note that a chunk has ended."""
        self._shares.pop(chunk, None)

    def have_room(self) -> bool:
        """Return whether all chunks together could not use all slots."""
        return sum(share.wanted for share in self._shares.values()) < self.limit

"""The memory of the decode process."""

import gc
import os
import resource

from pixcrawler_worker.inspection import kernel
from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.limits import Limits

#: Address space that may stay with the process between two images.
_MAX_KEPT_BYTES = 32_000_000
#: Of that, what the largest images can do without. When more is kept, it may be too scattered for them.
_MAX_SCATTERED_BYTES = 7_000_000
_PAGE_BYTES = resource.getpagesize()
#: Opened while it still can be. Elsewhere than on Linux, where it is not there, there is no limit either.
_STATISTICS = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC) if kernel.LINUX else None


class Memory:
    """The address space that this process may have: more while it converts images than while it looks at them.

    Create it when everything that is not of an image is there.

    Args:
        limits: what an image may take.

    Raises:
        MemoryError: it is too little for any image.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._allowed = limits.memory_bytes
        self._begun_with = address_space()
        if self._begun_with >= limits.memory_bytes:
            raise MemoryError(
                f"{limits.memory_bytes:,} bytes are allowed, and there are {self._begun_with:,} before the first image"
            )
        self._kept = 0
        self._decoding = min(self._begun_with + limits.decoding_bytes, limits.memory_bytes)

    def allow(self, operation: int) -> None:
        """Allow as much as an operation may take."""
        allowed = self._limits.memory_bytes if operation == Operation.CONVERT else self._decoding
        if allowed != self._allowed and kernel.LINUX:
            resource.setrlimit(resource.RLIMIT_AS, (allowed, self._limits.memory_bytes))
            self._allowed = allowed

    @property
    def is_scattered(self) -> bool:
        """Whether images before this one have left so much that it may have enough in a new process."""
        return self._kept > _MAX_SCATTERED_BYTES

    def reclaim(self) -> bool:
        """Return what images left to the system, and whether that was enough: what they keep, the next ones lack."""
        self._kept = address_space() - self._begun_with
        if self._kept >= _MAX_KEPT_BYTES:
            release()
            self._kept = address_space() - self._begun_with
        return self._kept < _MAX_KEPT_BYTES


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    return 0 if _STATISTICS is None else int(os.pread(_STATISTICS, 32, 0).split()[0]) * _PAGE_BYTES


def release() -> None:
    """Return memory that is not used to the system."""
    gc.collect()
    kernel.release_memory()

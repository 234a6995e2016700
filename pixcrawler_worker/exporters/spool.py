"""Bytes that are written little by little and read once, on disk as soon as they are many."""

import hashlib
import tempfile
import zlib
from collections.abc import Iterator

#: Bytes up to which they stay in memory, and bytes of one read.
_IN_MEMORY, _BLOCK = 1 << 20, 1 << 20
#: Bytes of many lines that are passed on at a time.
_LINES = 1 << 16


class Spool:
    """A file under construction, whose size, CRC-32 and SHA-256 are known when it is done."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as the object
        self._digest = hashlib.sha256()
        self._crc = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.size = 0

    def __del__(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size += len(data)
        if self._pending_bytes >= _LINES:
            self._flush()

    def _flush(self) -> None:
        """Pass on what was written: hashing many lines at once costs a tenth."""
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._file.write(data)
        self._digest.update(data)
        self._crc = zlib.crc32(data, self._crc)

    @property
    def crc(self) -> int:
        """The CRC-32 of what was written so far."""
        self._flush()
        return self._crc

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hexadecimal digits."""
        self._flush()
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Return everything from the beginning, and forget it."""
        self._flush()
        self._file.seek(0)
        with self._file as file:
            while block := file.read(_BLOCK):
                yield block

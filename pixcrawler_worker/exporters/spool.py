"""A temporary file that is written in small pieces and read once; in memory until it grows."""

import hashlib
import tempfile
import zlib
from collections.abc import Iterator

from pixcrawler_worker.errors import OutageError

#: Limit of the bytes that stay in memory, and bytes of one read.
_IN_MEMORY, _BLOCK = 1 << 16, 1 << 20
#: Bytes that are hashed and written at a time.
_BUFFER = 1 << 16


class Spool:
    """A temporary file whose size, CRC-32 and SHA-256 are known before it is read."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with the object
        self._digest = hashlib.sha256()
        self._crc = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.size = 0

    def __del__(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OutageError: when the folder of temporary files is full or not writable.
        """
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size += len(data)
        if self._pending_bytes >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        """Hash and write the buffer: hashing line by line takes ten times as long."""
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        try:
            self._file.write(data)
        except OSError as error:
            raise OutageError(f"a temporary file could not be written: {error}") from error
        self._digest.update(data)
        self._crc = zlib.crc32(data, self._crc)

    @property
    def crc(self) -> int:
        """CRC-32 of the bytes so far."""
        self._flush()
        return self._crc

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hexadecimal digits."""
        self._flush()
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield all bytes from the beginning. The file is deleted afterwards."""
        self._flush()
        self._file.seek(0)
        with self._file as file:
            while block := file.read(_BLOCK):
                yield block

"""ZIP and tar written sequentially, with the size and CRC of each file in its local header.

Files are stored, not compressed: compression saves a twentieth of a percent of a JPEG. The same files in the same order
give the same bytes. Without seeking, zipfile writes size and CRC in data descriptors after each file, which some
unpackers do not open, so the few records of a stored ZIP are written here (PKWARE's APPNOTE 6.3.10). Tar headers are
tarfile's.
"""

import struct
import tarfile
from typing import Protocol

from pixcrawler_worker.errors import PermanentError

#: 1980-01-01 00:00, the earliest time in a ZIP, in DOS format and in seconds since 1970.
_DOS_DATE, _EPOCH = (1980 - 1980) << 9 | 1 << 5 | 1, 315532800
_MODE = 0o644

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
END = struct.Struct("<4sHHHHIIH")
#: Bytes of what points to the end of a ZIP with 64-bit extensions, right before the other end.
LOCATOR_BYTES = 20
#: Version needed to extract (1.0: stored files), and version made by (3.0 on Unix, so that modes are used).
_NEEDED, _MADE = 10, 3 << 8 | 30
#: Limits of a ZIP without 64-bit extensions.
MAX_ENTRIES, MAX_BYTES = 65_535, 2**32 - 1


class Archive(Protocol):
    """The bytes around the files of an archive. The caller writes them and the files."""

    def header(self, path: str, *, size: int, crc: int) -> bytes:
        """Return the bytes before a file."""
        ...

    def padding(self, size: int) -> bytes:
        """Return the bytes after a file of that size."""
        ...

    def trailer(self) -> bytes:
        """Return the end of the archive."""
        ...


class Zip:
    """A ZIP of stored files."""

    def __init__(self) -> None:
        self._directory = bytearray()
        self._entries = 0
        self._offset = 0

    def header(self, path: str, *, size: int, crc: int) -> bytes:
        """Return a file's local header.

        Raises:
            PermanentError: when the archive would be larger than a ZIP can be.
        """
        name = path.encode("ascii")
        written = _LOCAL.pack(b"PK\3\4", _NEEDED, 0, 0, 0, _DOS_DATE, crc, size, size, len(name), 0) + name
        entry = (_MADE, _NEEDED, 0, 0, 0, _DOS_DATE, crc, size, size, len(name), 0, 0, 0, 0, (0o100000 | _MODE) << 16)
        self._directory += _CENTRAL.pack(b"PK\1\2", *entry, self._offset) + name
        self._entries += 1
        self._offset += len(written) + size
        if self._entries > MAX_ENTRIES or self._offset + len(self._directory) > MAX_BYTES:
            raise PermanentError(
                f"an archive would have more than the {MAX_ENTRIES:,} files or {MAX_BYTES:,} bytes that a ZIP holds: "
                "lower archive.part_max_images or archive.part_max_bytes"
            )
        return written

    def padding(self, size: int) -> bytes:
        """Return nothing."""
        del size
        return b""

    def trailer(self) -> bytes:
        """Return the central directory."""
        count, size = self._entries, len(self._directory)
        return bytes(self._directory) + END.pack(b"PK\5\6", 0, 0, count, count, size, self._offset, 0)


def _tar_header(path: str, size: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = size, _MODE, _EPOCH
    return entry.tobuf(tarfile.USTAR_FORMAT)


#: A header of tarfile without a name, and its parts around what differs between files: tarfile takes ten times as long
#: for each of them. Positions are those of POSIX.1-1988.
_TEMPLATE = _tar_header("", 0)
_MODE_AT, _SIZE_AT, _SIZE_END, _SUM_AT, _SUM_END = 100, 124, 135, 148, 156
_BEFORE_SIZE, _BEFORE_SUM = _TEMPLATE[_MODE_AT:_SIZE_AT], _TEMPLATE[_SIZE_END:_SUM_AT]
_AFTER_SUM = _TEMPLATE[_SUM_END:]
_SUM = sum(_BEFORE_SIZE) + sum(_BEFORE_SUM) + sum(_AFTER_SUM) + 8 * ord(" ")
_MAX_SHORT_SIZE = 8**11 - 1


class Tar:
    """A tar in the ustar format, which all readers support."""

    def header(self, path: str, *, size: int, crc: int) -> bytes:
        """Return a file's header."""
        del crc
        name = path.encode("ascii")
        if len(name) >= tarfile.LENGTH_NAME or size > _MAX_SHORT_SIZE:
            return _tar_header(path, size)
        octal = b"%011o" % size
        # Of all bytes, with spaces in place of the sum itself.
        checksum = b"%06o\0 " % (_SUM + sum(name) + sum(octal))
        return b"".join((name, bytes(_MODE_AT - len(name)), _BEFORE_SIZE, octal, _BEFORE_SUM, checksum, _AFTER_SUM))

    def padding(self, size: int) -> bytes:
        """Return the padding of the last block."""
        return bytes(-size % tarfile.BLOCKSIZE)

    def trailer(self) -> bytes:
        """Return two empty blocks."""
        return bytes(2 * tarfile.BLOCKSIZE)


class Plain:
    """A single file without an archive around it."""

    def header(self, path: str, *, size: int, crc: int) -> bytes:
        """Return nothing."""
        del path, size, crc
        return b""

    def padding(self, size: int) -> bytes:
        """Return nothing."""
        del size
        return b""

    def trailer(self) -> bytes:
        """Return nothing."""
        return b""

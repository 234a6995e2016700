"""Lists that are compressed: gzip, and Zstandard where pyarrow is installed."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from pixcrawler_worker.errors import PermanentError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: The end of what a frame of Zstandard begins with that is skipped, such as the size that pzstd writes first.
_SKIPPED = b"\x2a\x4d\x18"

#: What to do about what Zstandard says.
_ADVICE = {
    "Dictionary mismatch": "unpack it with its dictionary, zstd -d -D DICTIONARY",
    "Frame requires too much memory for decoding": "unpack it with zstd -d --long=31",
    "Unknown frame descriptor": "what follows the end of its compressed data is something else",
}


class Joined(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # of any buffer
        """Read at most as many bytes as the buffer has; return their number, 0 at the end."""
        if self._head:
            taken, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            taken = self._rest.read(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)


def decompressed(file: BinaryIO, name: str) -> BinaryIO:
    """Return a file whose content is not compressed.

    Raises:
        PermanentError: when it is compressed with Zstandard, and pyarrow is not installed.
    """
    head = file.read(len(_ZSTD))
    joined = io.BufferedReader(Joined(head, file))
    if head.startswith(_GZIP):
        return cast("BinaryIO", gzip.GzipFile(fileobj=joined))
    if head == _ZSTD or (head[1:] == _SKIPPED and head[0] >> 4 == 5):  # noqa: PLR2004 - 0x50 to 0x5f
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
        except ImportError:
            raise PermanentError(
                f"{name} is compressed with Zstandard, which needs pyarrow: pip install 'pixcrawler-worker[parquet]', "
                "or unpack it"
            ) from None
        return cast("BinaryIO", io.BufferedReader(_Zstandard(pa.CompressedInputStream(joined, "zstd"))))
    return cast("BinaryIO", joined)


class _Zstandard(io.RawIOBase):
    """What pyarrow decompresses, as a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # of any buffer
        taken = self._stream.read(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Say which list is damaged.

    Raises:
        PermanentError: when what is compressed is cut off or damaged, or the file cannot be read.
    """
    try:
        yield
    except EOFError:
        raise PermanentError(f"{name} is cut off: it ends in the middle of what is compressed") from None
    except (zlib.error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        if reason.startswith("Truncated compressed"):
            raise PermanentError(f"{name} is cut off: it ends in the middle of what is compressed") from error
        if reason.startswith("Not a gzipped file"):
            # Of what is compressed, the beginning was read.
            reason = "what follows the end of its compressed data is something else"
        is_damage = isinstance(error, zlib.error | gzip.BadGzipFile) or reason.startswith("ZSTD")
        advice = _ADVICE.get(reason.removeprefix("ZSTD decompress failed: "), "get it again, or unpack it")
        raise PermanentError(f"{name} cannot be read: {reason}{f': {advice}' if is_damage else ''}") from error

"""The images of an archive, in their order: read, checked, converted where that is wanted."""

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace

from pixcrawler_worker.db.exports import Item
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.ahead import ahead
from pixcrawler_worker.export.options import Picture as Wanted
from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import FileMissingError, Storage

#: Images that are read at a time, and bytes from which on fewer are; batches that are read while others are written.
_BATCH, _BATCH_BYTES, _AHEAD = 32, 8 * 1024 * 1024, 2
#: Why an image was left out.
_MISSING, _CHANGED = "missing", "changed"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image's file as it is written.

    Attributes:
        body: the file; empty where none is written.
        size: its bytes.
        sha256: 32 bytes.
        crc: CRC-32.
        extension: of its format.
        width: pixels.
        height: pixels.
    """

    body: bytes
    size: int
    sha256: bytes
    crc: int
    extension: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Body:
    """A file with its digests, made in the thread that read it."""

    body: bytes
    sha256: bytes
    crc: int

    @classmethod
    def of(cls, body: bytes) -> "_Body":
        return cls(body, hashlib.sha256(body).digest(), zlib.crc32(body))

    def picture(self, extension: str, width: int, height: int) -> Picture:
        return Picture(self.body, len(self.body), self.sha256, self.crc, extension, width, height)


class Pictures:
    """Reads the images of an archive, some while others are written.

    Args:
        runtime: what connects to storage and decoder.
        wanted: how they are to be changed.
        formats: extensions that the layout takes; others become the first of them.
        files: False where what is recorded is enough, because no file is written.
    """

    def __init__(self, runtime: Runtime, wanted: Wanted, formats: Sequence[str], *, files: bool) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._formats = formats
        self._files = files

    async def read(self, pages: AsyncIterator[Sequence[Item]]) -> AsyncGenerator[tuple[Item, Picture | str], None]:
        """Yield every image in its order, or why it is left out; some are read while others are written.

        Args:
            pages: the images, some at a time.

        Raises:
            PermanentError: when one is to be left out and the export is to fail then.
            TransientError: when the storage is away.
        """
        reads = (self._read(batch) async for batch in _batches(pages))
        async with contextlib.aclosing(ahead(reads, most=_AHEAD)) as batches:
            async for pairs in batches:
                for pair in pairs:
                    yield pair

    async def _read(self, items: Sequence[Item]) -> list[tuple[Item, Picture | str]]:
        if not self._files and all(item.sha256 is not None for item in items):
            # A table tells of files and has none: what was recorded is enough.
            return [(item, _recorded(item)) for item in items]
        storage = self._runtime.storage
        keys = [_key(storage, item) for item in items]
        known = [key for key in keys if key is not None]
        read = iter(await storage.get_all(known, _Body.of, most=self._runtime.settings.max_image_bytes))
        found = [FileMissingError("its row names no file here") if key is None else next(read) for key in keys]
        judged = [self._judged(item, one) for item, one in zip(items, found, strict=True)]
        left = ((item, one) for item, one in zip(items, judged, strict=True) if isinstance(one, _Body))
        decoded = iter(await asyncio.gather(*(self._decoded(item, body) for item, body in left)))
        pictures = (next(decoded) if isinstance(one, _Body) else one for one in judged)
        return list(zip(items, pictures, strict=True))

    def _judged(self, item: Item, found: "_Body | FileMissingError | RejectedError") -> "Picture | str | _Body":
        """Return an image's file, or why it is left out; the file as it was read when the decoder must see it."""
        if isinstance(found, FileMissingError):
            return self._left_out(item, _MISSING, found)
        if isinstance(found, RejectedError):
            return self._left_out(item, found.reason, found)
        if item.sha256 is not None and found.sha256 != item.sha256:
            return self._left_out(item, _CHANGED, PermanentError("its file is not the one that was stored"))
        if item.format is None or item.width is None or item.height is None or self._conversion(item, found.body):
            return found
        return found.picture(item.format, item.width, item.height)

    async def _decoded(self, item: Item, found: _Body) -> Picture | str:
        """Return an image's file, changed as is wanted, or why it is left out."""
        try:
            if item.format is None or item.width is None or item.height is None:
                # Its row was written by somebody who did not look.
                facts = await self._runtime.decoder.inspect(found.body)
                item = replace(item, format=facts.format, width=facts.width, height=facts.height)
            conversion = self._conversion(item, found.body)
            if conversion is not None:
                converted = await self._runtime.decoder.convert(found.body, conversion)
                if converted is not None:
                    changed = await asyncio.to_thread(_Body.of, converted.body)
                    return changed.picture(converted.format, converted.width, converted.height)
        except RejectedError as error:
            return self._left_out(item, error.reason, error)
        return found.picture(item.format or "jpg", item.width or 0, item.height or 0)

    def _left_out(self, item: Item, reason: str, error: PermanentError | RejectedError) -> str:
        if self._wanted.on_error == "fail":
            raise PermanentError(f"image {item.source_url} is {reason}: {error}") from error
        return str(reason)

    def _conversion(self, item: Item, body: bytes) -> Conversion | None:
        """Return how an image is to be changed; None when its file is copied as it is."""
        wanted, known = self._wanted, self._formats
        target = (item.format or "") if wanted.format == "keep" else str(wanted.format)
        if target not in known:
            target = known[0]
        turned = wanted.orient and (item.orientation or 1) != 1
        if wanted.orient and item.orientation is None:
            turned = _has_exif(body, item.format)
        if target == item.format and not (turned or wanted.resize or wanted.strip_metadata):
            return None
        resize = wanted.resize
        return Conversion(
            format=target,
            mode=resize.mode if resize else None,
            size=resize.size if resize else 0,
            only_shrink=resize.only_shrink if resize else True,
            quality=wanted.quality,
            background=wanted.background,
            orient=wanted.orient,
            strip=wanted.strip_metadata,
        )


async def _batches(pages: AsyncIterator[Sequence[Item]]) -> AsyncIterator[Sequence[Item]]:
    """Cut the images into batches that are read at a time: a few, or fewer where they are large."""
    batch: list[Item] = []
    size = 0
    async for page in pages:
        for item in page:
            batch.append(item)
            size += item.file_size or _BATCH_BYTES
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _recorded(item: Item) -> Picture:
    assert item.sha256 is not None
    return Picture(b"", item.file_size or 0, item.sha256, 0, item.format or "jpg", item.width or 0, item.height or 0)


def _key(storage: Storage, item: Item) -> str | None:
    try:
        return storage.key(item.storage_url or "")
    except PermanentError:
        # Its row names no file, or one that lies where this worker cannot reach.
        return None


def _has_exif(body: bytes, extension: str | None) -> bool:
    """Tell whether a file may have EXIF, which may say that its pixels are to be turned.

    Of a JPEG the segments in front of the pixels are looked at, ITU-T T.81 B.1.1.4; of other formats, every byte.
    """
    if extension != "jpg":
        # As AVIF, PNG and WebP call it.
        return extension == "tiff" or any(name in body for name in (b"Exif", b"eXIf", b"EXIF"))
    at = 2
    while at + 8 <= len(body) and body[at] == 0xFF and body[at + 1] != 0xDA:  # noqa: PLR2004 - start of the pixels
        if body[at + 4 : at + 8] == b"Exif":
            return True
        at += 2 + (body[at + 2] << 8 | body[at + 3])
    return False

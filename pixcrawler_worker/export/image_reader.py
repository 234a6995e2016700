"""The images of an archive, in their order: read, checked, and converted where the options ask for it."""

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.domain.facts import FORMATS, WRITTEN_FORMATS
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.export.options import ImageOptions
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.prefetch import prefetch
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.decoders import Decoders, share_of_cores
from pixcrawler_worker.jobs.internal_errors import InternalErrors
from pixcrawler_worker.runtime import Runtime, image_limits
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.failures import FileMissingError

#: Limits of a batch in images and in bytes; and how many batches are read at a time, while others are written.
_BATCH, _BATCH_BYTES, _PREFETCHED = 32, 8 * 1024 * 1024, 2
#: Reasons for leaving out an image.
_MISSING, _CHANGED, _UNREADABLE = "missing", "changed", "unreadable"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image's file as it is written.

    Attributes:
        body: content; empty where no file is written.
        size: bytes.
        sha256: 32 bytes.
        crc: CRC-32.
        extension: extension of its format.
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

    def file(self, extension: str, width: int, height: int) -> ImageFile:
        return ImageFile(self.body, len(self.body), self.sha256, self.crc, extension, width, height)


class ImageReader:
    """Reads the images of an archive, some while others are written.

    Args:
        runtime: connects to storage and decoder.
        plan: how to convert them, and which formats the layout supports: images of others are converted to the first
            of these. Where no files are written, the recorded facts are enough.
        parts: archives of the export, which are written at the same time.
        batch: images that are read at a time, at most.
    """

    def __init__(self, runtime: Runtime, plan: Plan, *, parts: int, batch: int = _BATCH) -> None:
        self._batch = batch
        self._runtime = runtime
        self._decoders = Decoders(runtime.decoder, image_limits(runtime.settings), share_of_cores(parts))
        self._options = plan.options.image
        self._formats = plan.layout.image_formats
        self._reads_files = plan.format is not ExportFormat.CSV
        self._bugs = InternalErrors("export", "image left out: internal error")
        # The last key for which the storage had an answer, be it that there is no such file.
        self._answered: str | None = None

    async def read(
        self, pages: AsyncIterator[Sequence[ExportEntry]]
    ) -> AsyncGenerator[tuple[ExportEntry, ImageFile | str], None]:
        """Yield every image in its order with its file, or with the reason why it is left out.

        Args:
            pages: the images.

        Raises:
            PermanentError: when an image cannot be exported and `on_error` is `fail`.
            TransientError: when the storage does not respond.
        """
        reads = (self._read(batch) async for batch in _batches(pages, limit=self._batch))
        async with (
            contextlib.aclosing(self._decoders),
            contextlib.aclosing(prefetch(reads, limit=_PREFETCHED)) as batches,
        ):
            async for pairs in batches:
                for pair in pairs:
                    yield pair

    async def _read(self, entries: Sequence[ExportEntry]) -> list[tuple[ExportEntry, ImageFile | str]]:
        files: dict[int, ImageFile | str] = {}
        for entry in entries:
            if not self._reads_files and _is_recorded(entry):
                files[entry.seq] = _recorded(entry)
        unread = [entry for entry in entries if entry.seq not in files]
        found = await self._bodies(unread)
        # What one raises ends the chunk, and not before all have ended.
        works = (self._file(entry, one) for entry, one in zip(unread, found, strict=True))
        for entry, file in zip(unread, await asyncio.gather(*works, return_exceptions=True), strict=True):
            if isinstance(file, BaseException):
                raise file
            files[entry.seq] = file
        return [(entry, files[entry.seq]) for entry in entries]

    async def _bodies(self, entries: Sequence[ExportEntry]) -> list["_Body | Exception"]:
        """Return the content of each image's file, or why there is none.

        Raises:
            OutageError, PermanentError: when the storage is unavailable, or can read none of its files.
        """
        storage = self._runtime.storage
        keys = [_key(storage, entry) for entry in entries]
        known = [key for key in keys if key is not None]
        max_bytes = self._runtime.settings.max_image_bytes
        found: Sequence[_Body | Exception]
        try:
            found = await storage.get_all(known, _Body.of, max_bytes=max_bytes)
        except OutageError as error:
            if not error.may_be_one_file:
                raise
            found = [error] * len(known)
        except WorkerError:
            raise
        except Exception:  # noqa: BLE001 - it is not known which of the files it met
            found = [await self._body(key, max_bytes) for key in known]
        read = iter(await self._read_again(known, found))
        return [FileMissingError("its row names no file here") if key is None else next(read) for key in keys]

    async def _body(self, key: str, max_bytes: int) -> "_Body | Exception":
        try:
            return (await self._runtime.storage.get_all([key], _Body.of, max_bytes=max_bytes))[0]
        except OutageError as error:
            if not error.may_be_one_file:
                raise
            return error
        except Exception as error:  # noqa: BLE001 - whatever one file raises is its own
            return error

    async def _read_again(
        self, keys: Sequence[str], found: Sequence["_Body | Exception"]
    ) -> Sequence["_Body | Exception"]:
        """Read the files again with which there was trouble, and return all of them.

        The trouble that remains is their own: another file can be read before and after. An outage may begin and end
        while a batch is read.

        Raises:
            OutageError, PermanentError: when it is that of the storage.
        """
        troubled = await self._require_readable(keys, found)
        if not troubled:
            return found
        found = list(found)
        for at in troubled:
            found[at] = await self._body(keys[at], self._runtime.settings.max_image_bytes)
        await self._require_readable(keys, found)
        return found

    async def _require_readable(self, keys: Sequence[str], found: Sequence["_Body | Exception"]) -> list[int]:
        """Return the positions of files with which there was trouble, when the storage can read another file, now.

        Raises:
            OutageError, PermanentError: when it can read none.
        """
        troubled = {at: one for at, one in enumerate(found) if _may_be_of_the_storage(one)}
        self._answered = next((key for at, key in enumerate(keys) if at not in troubled), self._answered)
        besides = [keys[at] for at in troubled]
        for folder in {key[: key.rfind("/") + 1] for key in besides}:
            if await self._runtime.storage.has_readable(folder, besides=besides, answered=self._answered):
                break
        else:
            for error in troubled.values():
                raise error
        return list(troubled)

    async def _file(self, entry: ExportEntry, found: "_Body | Exception") -> ImageFile | str:
        """Return an image's file, or the reason why it is left out. Whatever the image raises is its own."""
        try:
            checked = self._checked(entry, found)
            return await self._decoded(entry, checked) if isinstance(checked, _Body) else checked
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            line = self._bugs.add(error, image=entry.image.id)
            return left_out(self._options, entry, Reason.INTERNAL_ERROR, PermanentError(line))

    def _checked(self, entry: ExportEntry, found: "_Body | Exception") -> "ImageFile | str | _Body":
        """Return an image's file, the reason why it is left out, or its content where the decoder has to read it."""
        match found:
            case FileMissingError():
                return left_out(self._options, entry, _MISSING, found)
            case RejectedError():
                return left_out(self._options, entry, found.reason, found)
            case WorkerError():
                return left_out(self._options, entry, _UNREADABLE, found)
            case Exception():
                raise found
        if entry.sha256 is not None and found.sha256 != entry.sha256:
            return left_out(self._options, entry, _CHANGED, PermanentError("its file has changed since it was stored"))
        image = entry.image
        if not _has_facts(entry) or self._conversion(entry, found.body):
            return found
        return found.file(image.format or "", image.width or 0, image.height or 0)

    async def _decoded(self, entry: ExportEntry, found: _Body) -> ImageFile | str:
        """Return an image's file, converted as the options say, or the reason why it is left out."""
        try:
            if not _has_facts(entry):
                # Its row was not written by a crawl.
                facts = await self._runtime.decoder.inspect(found.body)
                entry = replace(
                    entry,
                    image=replace(entry.image, format=facts.format, width=facts.width, height=facts.height),
                )
            conversion = self._conversion(entry, found.body)
            if conversion is not None:
                converted = await self._convert(entry, found.body, conversion)
                if converted is not None:
                    changed = await asyncio.to_thread(_Body.of, converted.body)
                    return changed.file(converted.format, converted.width, converted.height)
        except RejectedError as error:
            return left_out(self._options, entry, error.reason, error)
        return found.file(entry.image.format or "", entry.image.width or 0, entry.image.height or 0)

    async def _convert(self, entry: ExportEntry, body: bytes, conversion: Conversion) -> Converted | None:
        pixels = (entry.image.width or 0) * (entry.image.height or 0)
        enlarged = 0 if conversion.only_shrink else conversion.size**2
        return await self._decoders.run(lambda decoder: decoder.convert(body, conversion), pixels=max(pixels, enlarged))

    def _conversion(self, entry: ExportEntry, body: bytes) -> Conversion | None:
        """Return how to convert an image; None when its file is copied unchanged."""
        options, formats = self._options, self._formats
        target = (entry.image.format or "") if options.format == "keep" else str(options.format)
        if target not in formats or target not in WRITTEN_FORMATS:
            target = formats[0]
        rotated = options.orient and (entry.orientation or 1) != 1
        if options.orient and entry.orientation is None:
            rotated = _has_exif(body, entry.image.format)
        if target == entry.image.format and not (rotated or options.resize or options.strip_metadata):
            return None
        resize = options.resize
        return Conversion(
            format=target,
            mode=resize.mode if resize else None,
            size=resize.size if resize else 0,
            only_shrink=resize.only_shrink if resize else True,
            quality=options.quality,
            background=options.background,
            orient=options.orient,
            strip=options.strip_metadata,
        )


def left_out(options: ImageOptions, entry: ExportEntry, reason: str, error: WorkerError) -> str:
    """Return the reason why an image is left out.

    Raises:
        PermanentError: when the options say that this fails the export.
    """
    if options.on_error == "fail":
        raise PermanentError(f"image {entry.image.original_url} is {reason}: {error}") from error
    return str(reason)


async def _batches(pages: AsyncIterator[Sequence[ExportEntry]], *, limit: int) -> AsyncIterator[Sequence[ExportEntry]]:
    """Group the images into batches, smaller ones where the images are large."""
    batch: list[ExportEntry] = []
    size = 0
    async for page in pages:
        for entry in page:
            batch.append(entry)
            size += max(entry.image.file_size or _BATCH_BYTES, 0)
            if len(batch) >= limit or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _may_be_of_the_storage(found: "_Body | Exception") -> TypeGuard[OutageError | PermanentError]:
    return isinstance(found, OutageError | PermanentError) and not isinstance(found, FileMissingError)


def _has_facts(entry: ExportEntry) -> bool:
    """Return whether the row says what the file is, and that can be true: another program may have written it."""
    image = entry.image
    return image.format in FORMATS and min(image.width or 0, image.height or 0) > 0


def _is_recorded(entry: ExportEntry) -> bool:
    """Return whether the row says everything that a table of images has."""
    return entry.sha256 is not None and _has_facts(entry) and (entry.image.file_size or -1) >= 0


def _recorded(entry: ExportEntry) -> ImageFile:
    assert entry.sha256 is not None
    image = entry.image
    return ImageFile(
        body=b"",
        size=image.file_size or 0,
        sha256=entry.sha256,
        crc=0,
        extension=image.format or "",
        width=image.width or 0,
        height=image.height or 0,
    )


def _key(storage: Storage, entry: ExportEntry) -> str | None:
    try:
        return storage.key(entry.image.storage_url or "")
    except PermanentError:
        # Its row has no URL of a file, or one of another storage.
        return None


def _has_exif(body: bytes, extension: str | None) -> bool:
    """Return whether a file may have EXIF metadata, which may have an orientation.

    Reads the segments of a JPEG before the pixels (ITU-T T.81 B.1.1.4), and searches all bytes of other formats. What
    is between two segments is not read: such a file may have it.
    """
    if extension != "jpg":
        # The names in AVIF, PNG and WebP.
        return extension == "tiff" or any(name in body for name in (b"Exif", b"eXIf", b"EXIF"))
    at = 2
    while body[at : at + 2] != b"\xff\xda":  # start of the pixels
        # Any number of fill bytes may be before a marker, and decoders skip others, too.
        is_segment = at + 8 <= len(body) and body[at] == 0xFF and body[at + 1] != 0xFF  # noqa: PLR2004 - of markers
        if not is_segment or body[at + 4 : at + 8] == b"Exif":
            return True
        at += 2 + (body[at + 2] << 8 | body[at + 3])
    return False

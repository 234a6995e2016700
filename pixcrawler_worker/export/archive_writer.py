"""One archive: images through a layout into a stream, and the sidecar files."""

import asyncio
import contextlib
import hashlib
import posixpath
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.db.image_records import UNSIGNED
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.list_columns import TEXT
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.domain.safe_text import safe, safe_url
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.errors import PermanentError, WorkerError
from pixcrawler_worker.export import card, report
from pixcrawler_worker.export.archive_formats import Archive, Plain, Tar, Zip
from pixcrawler_worker.export.archive_stream import ArchiveStream
from pixcrawler_worker.export.image_reader import ImageFile, ImageReader, left_out
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.prepared import PreparedImages
from pixcrawler_worker.export.sidecars import Sidecars
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters.protocol import Dataset, Entry, ExportFormat, Sample
from pixcrawler_worker.exporters.spool import Spool
from pixcrawler_worker.html_report import Places
from pixcrawler_worker.jobs.internal_errors import InternalErrors
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.uploads import Sink

_ARCHIVES: Mapping[ExportFormat, type[Archive]] = {
    ExportFormat.ZIP: Zip,
    ExportFormat.TAR: Tar,
    ExportFormat.CSV: Plain,
}
_CHECKSUMS = "SHA256SUMS"
#: Limits of `Entry.path`: characters of all of it, and of each of its parts.
_MAX_PATH, _MAX_NAME = 200, 99
#: Positions of images that were left out, which are kept for the report on all archives.
_MAX_LEFT_OUT = 10_000


@dataclass(frozen=True, slots=True)
class WrittenArchive:
    """The outcome of writing an archive.

    Attributes:
        size: bytes.
        sha256: of all of it, in hexadecimal digits.
        table: path of the table of its images in it, and the digest of that table; None when it has none.
        summary: counts of its images.
        left_out: positions in the export of the first of its images that were left out.
    """

    size: int
    sha256: str
    table: tuple[str, str] | None
    summary: Summary
    left_out: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePart:
    """An archive to write.

    Attributes:
        number: number of the archive, from 0.
        total: number of archives of the export.
        pages: its images in their order, in pages that fit into memory.
        shown: its images on the contact sheet.
    """

    number: int
    total: int
    pages: AsyncIterator[Sequence[ExportEntry]]
    shown: Sequence[ExportEntry]


async def write(
    runtime: Runtime, sink: Sink, plan: Plan, part: ArchivePart, images: ImageReader | PreparedImages
) -> WrittenArchive:
    """Write an archive.

    Args:
        runtime: connects to storage and decoder.
        sink: receives the archive.
        plan: plan of the export.
        part: the archive.
        images: reads its images.

    Raises:
        PermanentError: when an image is missing or broken and the options say that this fails the export.
        TransientError: when the storage does not respond.
    """
    async with ArchiveStream(sink, _ARCHIVES[plan.format]()) as stream:
        writer = _ArchiveWriter(stream, plan, part, runtime.show_progress)
        # The decoder is a process of its own: it makes the thumbnails while this one copies files.
        thumbnails = asyncio.create_task(report.thumbnails(runtime, part.shown if writer.has_report else ()))
        try:
            return await writer.write(images, thumbnails)
        finally:
            thumbnails.cancel()
            await asyncio.gather(thumbnails, return_exceptions=True)


class _ArchiveWriter:
    def __init__(
        self, stream: ArchiveStream, plan: Plan, part: ArchivePart, show_progress: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._show_progress = show_progress
        self._plan = plan
        self._part = part
        self._dataset = Dataset(
            name=plan.name,
            labels=plan.labels,
            splits=plan.splits,
            part=part.number,
            parts=part.total,
            max_files_per_dir=plan.options.max_files_per_dir,
            columns=plan.columns.types,
        )
        self._layout = plan.layout(self._dataset)
        self._summary = Summary()
        self._left_out: list[int] = []
        self._paths: set[int] = set()
        self._shown = frozenset(entry.seq for entry in part.shown)
        self._places: dict[int, Places] = {}
        self._bugs = InternalErrors("export", "image left out: internal error")
        self._sidecars = Sidecars(plan.options.extras, plan.columns.types)
        report_path = self._layout.extra_path(report.NAME)
        self.has_report = plan.options.extras.html_report and report_path is not None
        self._report_folder = posixpath.dirname(report_path or "") or "."

    async def write(
        self, images: ImageReader | PreparedImages, thumbnails: Awaitable[Mapping[int, bytes]]
    ) -> WrittenArchive:
        # Closed at once when something fails: nothing is left running then.
        async with contextlib.aclosing(images.read(self._part.pages)) as found:
            async for entry, file in found:
                reason = file if isinstance(file, str) else await self._add_image(entry, file)
                if reason is not None:
                    self._summary.skipped[reason] += 1
                    self._left_out.append(entry.seq)
                self._show_progress(self._summary.images)
        for written in self._layout.close():
            await self._add(written)
        table = None
        for name, spool in self._sidecars.files():
            sha256 = spool.sha256  # before it is written, which empties it
            path = await self._add_sidecar(name, spool)
            if name == tables.NAME and path is not None:
                table = path, sha256
        if self._plan.options.extras.dataset_card:
            await self._add_sidecar(card.NAME, self._card().encode())
        if self.has_report:
            sheet = report.Sheet(self._part.shown, await thumbnails, self._places)
            html = report.write(self._plan, self._summary, sheet)
            await self._add_sidecar(report.NAME, html)
        if self._sidecars.checksums is not None:
            await self._add_sidecar(_CHECKSUMS, self._sidecars.checksums)
        size, sha256 = await self._stream.close()
        return WrittenArchive(size, sha256, table, self._summary, tuple(self._left_out[:_MAX_LEFT_OUT]))

    async def _add_sidecar(self, name: str, body: bytes | Spool) -> str | None:
        """Add a sidecar file and return its path; None when the layout leaves it out."""
        if self._dataset.parts > 1:
            # Parts may be unpacked into one folder.
            stem, dot, extension = name.partition(".")
            name = f"{stem}-part-{self._dataset.part:05d}{dot}{extension}"
        path = self._layout.extra_path(name)
        if path is not None:
            await self._add(Entry(path, body))
        return path

    def _card(self) -> str:
        dataset = self._dataset
        part = f"part {dataset.part + 1} of {dataset.parts}" if dataset.parts > 1 else ""
        return card.write(self._plan, self._summary, part=part)

    async def _add_image(self, entry: ExportEntry, file: ImageFile) -> str | None:
        """Add an image; return the reason when it is left out instead. Whatever the layout raises for it is its own."""
        try:
            sample, written = self._arranged(entry, file)
        except (WorkerError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a layout of another package may raise anything
            line = self._bugs.add(error, image=entry.image.id)
            return left_out(self._plan.options.image, entry, Reason.INTERNAL_ERROR, PermanentError(line))
        self._summary.add(
            entry.image,
            label=sample.label,
            split=sample.split,
            extension=file.extension,
            size=file.size,
            has_caption=bool(sample.row.get(TEXT)),
        )
        for one in written:
            await self._add(one, file if one.body is file.body else None)
        return None

    def _arranged(self, entry: ExportEntry, file: ImageFile) -> tuple[Sample, list[Entry]]:
        """Return an image with its files in the archive, which is in the sidecar files now.

        The files are complete before the first is written: of an image whose layout raises, none is in the archive.
        """
        sample = self._sample(entry, file)
        file_name, entries = self._layout.add(sample)
        written = [self._checked(one) for one in entries]
        file_name.encode("ascii")
        self._sidecars.add(file_name, sample.row)
        if entry.seq in self._shown:
            # The file is one of its own in some layouts, and inside another one in others.
            path = next((one.path for one in written if one.body is file.body and file.body), None)
            link = None if path is None else posixpath.relpath(path, self._report_folder)
            self._places[entry.seq] = report.place(entry, file_name, link)
        return sample, written

    def _checked(self, written: Entry) -> Entry:
        """Return a file that a layout adds for an image.

        Raises:
            TypeError, ValueError: when it is not as `Entry` describes it.
        """
        content: object = written.body
        if not isinstance(content, bytes | Spool):
            raise TypeError(f"the layout returned a file with {type(content).__name__} in place of bytes")
        parts = written.path.split("/")
        possible = written.path.isascii() and written.path.isprintable() and len(written.path) <= _MAX_PATH
        if not possible or any(part in {"", ".", ".."} or len(part) > _MAX_NAME for part in parts):
            raise ValueError(f"the layout returned the path {written.path[:_MAX_PATH]!r}")
        if hash(written.path) in self._paths:
            raise ValueError(f"the layout returned the path {written.path!r} twice")
        self._paths.add(hash(written.path))
        return written

    async def _add(self, written: Entry, file: ImageFile | None = None) -> None:
        """Append a file. Checksums of an image that were computed when it was read are used."""
        body = written.body
        if isinstance(body, Spool):
            size, crc, sha256 = body.size, body.crc, body.sha256
        elif file is not None:
            size, crc, sha256 = file.size, file.crc, file.sha256.hex()
        else:
            size, crc, sha256 = len(body), zlib.crc32(body), hashlib.sha256(body).hexdigest()
        checksums = self._sidecars.checksums
        if checksums is not None and body is not checksums:
            checksums.write(f"{sha256}  {written.path}\n".encode())
        blocks = [body] if isinstance(body, bytes) else body.blocks()
        await self._stream.add(written.path, size=size, crc=crc, blocks=blocks)

    def _sample(self, entry: ExportEntry, file: ImageFile) -> Sample:
        image = entry.image
        label = self._plan.label(entry)
        split = self._plan.splits[entry.split] if self._plan.splits else None
        row: dict[str, Value] = {
            "label": label,
            "split": split or "train",
            "width": file.width,
            "height": file.height,
            "bytes": file.size,
            "sha256": file.sha256.hex(),
            "phash": "" if entry.phash is None else f"{entry.phash & UNSIGNED:016x}",
            "mime": tables.MIME[file.extension],
            "source_url": safe_url(image.original_url),
            "page_url": safe_url(image.page_url or ""),
            "title": safe(image.title or ""),
            "author": safe(image.author or ""),
            "license": safe(image.license or ""),
            "license_url": safe_url(image.license_url or ""),
            "attribution": safe(image.attribution or ""),
            "engine": safe(image.source or ""),
            "query": safe(image.query or ""),
            "crawled_at": "" if self._plan.options.reproducible else entry.crawled_at or "",
            "flags": safe(",".join(sorted({finding[0] for finding in entry.findings}))) if entry.findings else "",
            **self._plan.columns.values(entry.caption, entry.columns),
        }
        return Sample(
            stem=self._plan.stem(entry),
            extension=file.extension,
            label=label,
            split=split,
            width=file.width,
            height=file.height,
            row=row,
            body=file.body,
        )

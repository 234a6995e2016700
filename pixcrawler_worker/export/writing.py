"""One archive: images through a layout into a stream, and what lies beside them."""

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixcrawler_worker.db.exports import Item
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.export import card, report
from pixcrawler_worker.export.archives import Archive, Plain, Tar, Zip
from pixcrawler_worker.export.beside import Beside
from pixcrawler_worker.export.pictures import Picture, Pictures
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.stream import Stream
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters.protocol import Carrier, Dataset, Entry, Sample
from pixcrawler_worker.exporters.spool import Spool
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import Sink

_ARCHIVES: Mapping[Carrier, type[Archive]] = {Carrier.ZIP: Zip, Carrier.TAR: Tar, Carrier.CSV: Plain}
_SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Written:
    """What an archive became.

    Attributes:
        size: bytes.
        sha256: of all of it, in hexadecimal digits.
        table: where the table of its images lies in it, and the digest of that; None when it has none.
        summary: what is in it.
    """

    size: int
    sha256: str
    table: tuple[str, str] | None
    summary: Summary

    def as_json(self) -> dict[str, Any]:
        """Return it with JSON's types only."""
        return {"size": self.size, "sha256": self.sha256, "table": self.table, **self.summary.as_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An archive to write.

    Attributes:
        number: from 0.
        of: archives of the export.
        pages: its images in their order, some at a time: all of them would not be little.
        shown: some of them, for the page about it.
    """

    number: int
    of: int
    pages: AsyncIterator[Sequence[Item]]
    shown: Sequence[Item]


async def write(runtime: Runtime, sink: Sink, plan: Plan, part: Part) -> Written:
    """Write an archive.

    Args:
        runtime: what connects to storage and decoder.
        sink: where the archive goes.
        plan: what the archives of the export have in common.
        part: what is in it.

    Raises:
        PermanentError: when an image is missing or broken and the options say that this fails the export.
        TransientError: when the storage is away.
    """
    pictures = Pictures(runtime, plan.options.image, plan.layout.formats, files=plan.carrier is not Carrier.CSV)
    async with Stream(sink, _ARCHIVES[plan.carrier]()) as stream:
        writer = _Writer(stream, plan, part)
        # The decoder is a process of its own: it makes the small pictures while this one copies files.
        thumbnails = asyncio.create_task(report.thumbnails(runtime, part.shown if writer.has_page else ()))
        try:
            return await writer.write(pictures, thumbnails)
        finally:
            thumbnails.cancel()
            await asyncio.gather(thumbnails, return_exceptions=True)


class _Writer:
    def __init__(self, stream: Stream, plan: Plan, part: Part) -> None:
        self._stream = stream
        self._plan = plan
        self._part = part
        self._dataset = Dataset(
            name=plan.name,
            labels=plan.labels,
            splits=plan.splits,
            part=part.number,
            parts=part.of,
            max_files_per_dir=plan.options.max_files_per_dir,
        )
        self._layout = plan.layout(self._dataset)
        self._summary = Summary()
        self._beside = Beside(plan.options.extras)
        self.has_page = plan.options.extras.html_report and self._layout.extra_path(report.NAME) is not None

    async def write(self, pictures: Pictures, thumbnails: Awaitable[Mapping[int, bytes]]) -> Written:
        # Closed at once when something fails: nothing is left under way then.
        async with contextlib.aclosing(pictures.read(self._part.pages)) as found:
            async for item, picture in found:
                if isinstance(picture, str):
                    self._summary.skipped[picture] += 1
                else:
                    await self._add_picture(item, picture)
        for entry in self._layout.close():
            await self._add(entry)
        table = None
        for name, spool in self._beside.files():
            sha256 = spool.sha256  # before it is written, which forgets it
            path = await self._add_beside(name, spool)
            if name == tables.NAME and path is not None:
                table = path, sha256
        if self._plan.options.extras.dataset_card:
            await self._add_beside("README.md", self._card().encode())
        if self.has_page:
            page = report.write(self._plan, self._summary, self._part.shown, await thumbnails)
            await self._add_beside(report.NAME, page)
        if self._beside.sums is not None:
            await self._add_beside(_SUMS, self._beside.sums)
        size, sha256 = await self._stream.close()
        return Written(size, sha256, table, self._summary)

    async def _add_beside(self, name: str, body: bytes | Spool) -> str | None:
        """Add a file that every export has, and return where it lies; None where the layout has no place for it."""
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

    async def _add_picture(self, item: Item, picture: Picture) -> None:
        sample = self._sample(item, picture)
        file_name, entries = self._layout.add(sample)
        self._beside.add(file_name, sample.row)
        self._summary.add(item, label=sample.label, split=sample.split, extension=picture.extension, size=picture.size)
        for entry in entries:
            await self._add(entry, picture if entry.body is picture.body else None)

    async def _add(self, entry: Entry, picture: Picture | None = None) -> None:
        """Append a file; what was computed for a picture when it was read is not computed again."""
        body = entry.body
        if isinstance(body, Spool):
            size, crc, sha256 = body.size, body.crc, body.sha256
        elif picture is not None:
            size, crc, sha256 = picture.size, picture.crc, picture.sha256.hex()
        else:
            size, crc, sha256 = len(body), zlib.crc32(body), hashlib.sha256(body).hexdigest()
        if self._beside.sums is not None and body is not self._beside.sums:
            self._beside.sums.write(f"{sha256}  {entry.path}\n".encode())
        await self._stream.add(
            entry.path, size=size, crc=crc, blocks=[body] if isinstance(body, bytes) else body.blocks()
        )

    def _sample(self, item: Item, picture: Picture) -> Sample:
        label = item.label or self._plan.unlabelled
        split = self._plan.splits[item.split] if self._plan.splits else None
        row: dict[str, Value] = {
            "label": label,
            "split": split or "train",
            "width": picture.width,
            "height": picture.height,
            "bytes": picture.size,
            "sha256": picture.sha256.hex(),
            "phash": "" if item.phash is None else f"{item.phash & (2**64 - 1):016x}",
            "mime": tables.MIME[picture.extension],
            "source_url": item.source_url,
            "page_url": item.page_url or "",
            "title": item.title or "",
            "author": item.author or "",
            "license": item.license or "",
            "license_url": item.license_url or "",
            "attribution": item.attribution or "",
            "engine": item.source or "",
            "query": item.query or "",
            "crawled_at": item.crawled_at or "",
            "flags": ",".join(sorted({found[0] for found in item.findings})) if item.findings else "",
        }
        return Sample(
            stem=item.digest.hex() + (f"-{item.copy + 1}" if item.copy else ""),
            extension=picture.extension,
            label=label,
            split=split,
            width=picture.width,
            height=picture.height,
            row=row,
            body=picture.body,
        )

"""Images as everything reads them: the documented row, the recorded facts, and the credit, selected in one place."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import SQLCoreOperations

from pixcrawler_worker.db.models import Image, ImageFact
from pixcrawler_worker.domain.facts import Credit, ImageFacts

_UNSIGNED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image of a crawl job. What is unknown is None: its row may have been written by others.

    Attributes:
        id, filename, storage_url, original_url, width, height, file_size, format: of the row in `images`.
        sha256: digest that the crawl recorded, 32 bytes.
        phash, dhash: perceptual hashes, 64 bits, unsigned.
        mode, frames: see `ImageFacts`.
        label: class of the image.
        query, source: what was searched, and where.
        crawled_at: when the image was stored.
        credit: whose image it is.
    """

    id: int
    filename: str
    storage_url: str | None
    original_url: str
    width: int | None
    height: int | None
    file_size: int | None
    format: str | None
    sha256: bytes | None
    phash: int | None
    dhash: int | None
    mode: str | None
    frames: int | None
    label: str | None
    query: str | None
    source: str | None
    crawled_at: datetime | None
    credit: Credit

    @property
    def facts(self) -> ImageFacts | None:
        """What the crawl recorded of the bytes; None when that is not complete."""
        if self.sha256 is None or not self.width or not self.height or self.file_size is None or not self.format:
            return None
        return ImageFacts(
            sha256=self.sha256,
            format=self.format,
            width=self.width,
            height=self.height,
            file_size=self.file_size,
            mode=self.mode or "",
            frames=self.frames or 1,
            phash=self.phash or 0,
            dhash=self.dhash or 0,
        )


def select_images(*more: SQLCoreOperations[Any]) -> Select[*tuple[Any, ...]]:
    """Return the query for images with their facts, which `record_of` reads.

    Args:
        more: further columns, of tables that the caller joins.
    """
    return (
        select(
            Image.id,
            Image.filename,
            Image.storage_url,
            Image.original_url,
            Image.width,
            Image.height,
            Image.file_size,
            Image.format,
            ImageFact.sha256,
            ImageFact.phash,
            ImageFact.dhash,
            ImageFact.mode,
            ImageFact.frames,
            ImageFact.label,
            ImageFact.query,
            ImageFact.source,
            ImageFact.crawled_at,
            ImageFact.page_url,
            ImageFact.title,
            ImageFact.author,
            ImageFact.license,
            ImageFact.license_url,
            ImageFact.attribution,
            *more,
        )
        .select_from(Image)
        .outerjoin(ImageFact, ImageFact.image_id == Image.id)
    )


def record_of(row: Row[*tuple[Any, ...]]) -> ImageRecord:
    """Return the image in a row of `select_images`."""
    return ImageRecord(
        id=row.id,
        filename=row.filename,
        storage_url=row.storage_url,
        original_url=row.original_url,
        width=row.width,
        height=row.height,
        file_size=row.file_size,
        format=row.format,
        sha256=row.sha256,
        phash=None if row.phash is None else row.phash & _UNSIGNED,
        dhash=None if row.dhash is None else row.dhash & _UNSIGNED,
        mode=row.mode,
        frames=row.frames,
        label=row.label,
        query=row.query,
        source=row.source,
        crawled_at=row.crawled_at,
        credit=Credit(
            page_url=row.page_url,
            title=row.title,
            author=row.author,
            license=row.license,
            license_url=row.license_url,
            attribution=row.attribution,
        ),
    )


def of_crawl(session: Session, crawl_job_id: int) -> list[ImageRecord]:
    """Return the images that a crawl job stored, by label, then in the order in which they came."""
    query = select_images().where(Image.crawl_job_id == crawl_job_id, ImageFact.image_id.is_not(None))
    return [record_of(row) for row in session.execute(query.order_by(ImageFact.label, Image.id))]

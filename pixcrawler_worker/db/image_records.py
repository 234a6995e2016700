"""Images as crawls, validations and exports read them: the documented row, the recorded facts and the credit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import SQLCoreOperations

from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.private_models import ImageFact
from pixcrawler_worker.domain.facts import FORMATS, Credit, ImageFacts

#: Masks the 64 bits of a hash, which PostgreSQL keeps as a signed number.
UNSIGNED = 2**64 - 1
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of a crawl job. What is unknown is None: another program may have written its row.

    Attributes:
        id, filename, storage_url, original_url, width, height, file_size, format: of the row in `images`.
        sha256: digest that the crawl recorded, 32 bytes.
        phash, dhash: perceptual hashes, 64 bits as a signed number; `facts` has them unsigned.
        mode, frames: see `ImageFacts`.
        label: class of the image.
        query, source: the search query, and the source that returned the image.
        page_url, title, author, license, license_url, attribution: see `Credit`.
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
    page_url: str | None
    title: str | None
    author: str | None
    license: str | None
    license_url: str | None
    attribution: str | None

    @property
    def credit(self) -> Credit:
        """Author, license and page of the image, as its source stated them."""
        return Credit(
            page_url=self.page_url,
            title=self.title,
            author=self.author,
            license=self.license,
            license_url=self.license_url,
            attribution=self.attribution,
        )

    @property
    def facts(self) -> ImageFacts | None:
        """What the crawl recorded of the bytes; None when that is not complete, or cannot be true."""
        if self.sha256 is None or self.width is None or self.height is None or self.file_size is None:
            return None
        possible = min(self.width, self.height) > 0 and self.file_size >= 0 and len(self.sha256) == _DIGEST_BYTES
        if not possible or self.format not in FORMATS:
            return None
        return ImageFacts(
            sha256=self.sha256,
            format=self.format,
            width=self.width,
            height=self.height,
            file_size=self.file_size,
            mode=self.mode or "",
            frames=max(self.frames or 1, 1),
            phash=(self.phash or 0) & UNSIGNED,
            dhash=(self.dhash or 0) & UNSIGNED,
        )


#: The column of each field.
_COLUMNS: Mapping[str, SQLCoreOperations[Any]] = {
    "id": Image.id,
    "filename": Image.filename,
    "storage_url": Image.storage_url,
    "original_url": Image.original_url,
    "width": Image.width,
    "height": Image.height,
    "file_size": Image.file_size,
    "format": Image.format,
    "sha256": ImageFact.sha256,
    "phash": ImageFact.phash,
    "dhash": ImageFact.dhash,
    "mode": ImageFact.mode,
    "frames": ImageFact.frames,
    "label": ImageFact.label,
    "query": ImageFact.query,
    "source": ImageFact.source,
    "page_url": ImageFact.page_url,
    "title": ImageFact.title,
    "author": ImageFact.author,
    "license": ImageFact.license,
    "license_url": ImageFact.license_url,
    "attribution": ImageFact.attribution,
}
# Columns are selected in the order of the fields, so that a row is unpacked at once: looking up each of its attributes
# takes three times as long, and exports read millions.
_SELECTED = [_COLUMNS[field.name] for field in fields(ImageRecord)]


def select_images(*more: SQLCoreOperations[Any]) -> Select[*tuple[Any, ...]]:
    """Return the query for images with their facts, whose rows `record_of` and `more_of` read.

    Args:
        more: further columns, of tables that the caller joins.
    """
    return select(*_SELECTED, *more).select_from(Image).outerjoin(ImageFact, ImageFact.image_id == Image.id)


def record_of(row: Row[*tuple[Any, ...]]) -> ImageRecord:
    """Return the image in a row of `select_images`."""
    return ImageRecord(*row[: len(_SELECTED)])


def more_of(row: Row[*tuple[Any, ...]]) -> Sequence[Any]:
    """Return the values of the further columns in a row of `select_images`."""
    return row[len(_SELECTED) :]


def of_crawl(session: Session, crawl_job_id: int) -> list[ImageRecord]:
    """Return the images that a crawl job stored, ordered by label and id."""
    query = select_images().where(Image.crawl_job_id == crawl_job_id, ImageFact.image_id.is_not(None))
    return [record_of(row) for row in session.execute(query.order_by(ImageFact.label, Image.id))]


def count_captions(session: Session, crawl_job_id: int) -> int:
    """Return how many images of a crawl job have a caption."""
    query = select(func.count(ImageFact.caption)).join(Image, Image.id == ImageFact.image_id)
    return session.scalars(query.where(Image.crawl_job_id == crawl_job_id)).one()

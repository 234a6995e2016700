"""Counts of the images in an export or in one of its archives."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.domain.stored_json import Fields

#: Characters of the name of a license or source.
_MAX_NAME = 200


@dataclass(slots=True)
class Summary:
    """Counts of images.

    Attributes:
        images: number of images.
        image_bytes: bytes of their files.
        captions: images that have a caption.
        skipped: selected images that were left out, by reason.
        labels, splits, formats, licenses, sources: images by each of them; "" for none.
    """

    images: int = 0
    image_bytes: int = 0
    captions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(  # noqa: PLR0913 - one argument per count
        self,
        image: ImageRecord,
        *,
        label: str,
        split: str | None,
        extension: str,
        size: int,
        has_caption: bool = False,
    ) -> None:
        """Count an image."""
        self.images += 1
        self.captions += has_caption
        self.image_bytes += size
        self.labels[label] += 1
        self.splits[split or ""] += 1
        self.formats[extension] += 1
        # They are written into files.
        self.licenses[safe(image.license or "", max_length=_MAX_NAME)] += 1
        self.sources[safe(image.source or "", max_length=_MAX_NAME)] += 1

    def merge(self, other: "Summary") -> None:
        """Add the counts of another summary."""
        self.images += other.images
        self.image_bytes += other.image_bytes
        self.captions += other.captions
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Return the summary with JSON's types only, the most frequent first."""
        counted = {name: dict(sorted(getattr(self, name).items(), key=_by_frequency)) for name in _COUNTERS}
        captions = {"captions": self.captions} if self.captions else {}
        return {"images": self.images, "image_bytes": self.image_bytes, **captions, **counted}

    @classmethod
    def from_fields(cls, fields: Fields) -> "Summary":
        """Return the summary that `to_json` wrote.

        Raises:
            PermanentError: when a field is invalid; the message names it.
        """
        counted = {name: Counter(fields.counts(name)) for name in _COUNTERS}
        return cls(
            images=fields.integer("images"),
            image_bytes=fields.integer("image_bytes"),
            captions=fields.integer("captions", default=0),
            **counted,
        )


_COUNTERS = ("skipped", "labels", "splits", "formats", "licenses", "sources")


def _by_frequency(counted: tuple[str, int]) -> tuple[int, str]:
    name, count = counted
    return -count, name

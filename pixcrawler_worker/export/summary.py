"""What is in an export, in numbers: added up while it is written, and over its parts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pixcrawler_worker.db.exports import Item


@dataclass(slots=True)
class Summary:
    """Counts of images, by what they are.

    Attributes:
        images: in the archives.
        image_bytes: of their files.
        skipped: images that were chosen and left out, by the reason.
        labels, splits, formats, licenses, sources: images by each of them; "" for those without.
    """

    images: int = 0
    image_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item, *, label: str, split: str | None, extension: str, size: int) -> None:
        """Count an image."""
        self.images += 1
        self.image_bytes += size
        self.labels[label] += 1
        self.splits[split or ""] += 1
        self.formats[extension] += 1
        self.licenses[item.license or ""] += 1
        self.sources[item.source or ""] += 1

    def merge(self, told: Mapping[str, Any]) -> None:
        """Add what `as_json` made of another one."""
        self.images += told["images"]
        self.image_bytes += told["image_bytes"]
        for name in _COUNTERS:
            getattr(self, name).update(told[name])

    def as_json(self) -> dict[str, Any]:
        """Return the summary with JSON's types only, the most frequent first."""
        counted = {name: dict(sorted(getattr(self, name).items(), key=_frequent)) for name in _COUNTERS}
        return {"images": self.images, "image_bytes": self.image_bytes, **counted}


_COUNTERS = ("skipped", "labels", "splits", "formats", "licenses", "sources")


def _frequent(counted: tuple[str, int]) -> tuple[int, str]:
    name, count = counted
    return -count, name

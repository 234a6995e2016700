"""A small dataset, and running layouts over it as an export does."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from PIL import Image

from pixcrawler_worker.domain.list_columns import ColumnType
from pixcrawler_worker.domain.tables import COLUMNS, MIME, Value
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

EMOJI = "\N{CAT FACE}" * 300
#: Classes that are difficult as file names, sorted as in an export.
LABELS = tuple(sorted(("train", "CON", "../x", EMOJI, "Cat", "cat", 'a "b" & <c>')))
SPLITS = ("train", "val", "test")
EXTRAS = ("README.md", "images.csv", "ATTRIBUTION.txt", "SHA256SUMS", "dataset.html")


@dataclass(frozen=True, kw_only=True)
class Written:
    """One archive.

    Attributes:
        names: `file_name` of each image, in their order.
        files: contents of the files by path, in their order.
        images: paths of the files that are unchanged images.
    """

    names: Sequence[str]
    files: Mapping[str, bytes]
    images: Sequence[str]


@cache
def image_file(number: int, extension: str) -> bytes:
    """Return a file that differs for each number, 8 + number pixels wide and 8 high."""
    file = io.BytesIO()
    image = Image.effect_noise((8 + number, 8), 50).convert("RGB")
    image.save(file, {"jpg": "JPEG"}.get(extension, extension.upper()))
    return file.getvalue()


def sample(
    number: int,
    *,
    label: str = "cat",
    split: str | None = None,
    extension: str = "jpg",
    body: bytes | None = None,
    **columns: Value,
) -> Sample:
    """Return an image with values in all columns."""
    body = image_file(number, extension) if body is None else body
    stem = hashlib.sha256(str(number).encode()).hexdigest()
    row: dict[str, Value] = {
        **dict.fromkeys(COLUMNS, ""),
        "label": label,
        "split": split or "train",
        "width": 8 + number,
        "height": 8,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "mime": MIME[extension],
        "source_url": f"https://images.example/{number}.{extension}",
        "title": "\N{GREEK SMALL LETTER OMEGA} \N{LINE SEPARATOR} \u202e",
        "license": "cc-by-4.0",
        "license_url": "https://creativecommons.org/licenses/by/4.0/",
        "attribution": f"{number} by Ada",
        "crawled_at": "2026-01-02T03:04:05Z",
        **columns,
    }
    del row["file_name"]
    return Sample(
        stem=stem,
        extension=extension,
        label=label,
        split=split,
        width=8 + number,
        height=8,
        row=row,
        body=body,
    )


def dataset(
    *,
    splits: Sequence[str] = (),
    labels: Sequence[str] = LABELS,
    part: int = 0,
    parts: int = 1,
    columns: Mapping[str, ColumnType] = MappingProxyType({}),
) -> Dataset:
    """Return the dataset of an archive of these images."""
    return Dataset(
        name="Ada's cats", labels=tuple(labels), splits=tuple(splits), part=part, parts=parts, columns=columns
    )


def archives(
    layout: type[Layout], *, splits: Sequence[str], parts: int, count: int = 42
) -> Iterator[tuple[Dataset, list[Sample]]]:
    """Yield the archives of an export of all classes and splits, with the images of each."""
    extensions = [extension for extension in ("jpg", "png") if extension in layout.image_formats]
    images = [
        sample(
            number,
            label=LABELS[number % len(LABELS)],
            split=splits[number // len(LABELS) % len(splits)] if splits else None,
            extension=extensions[number % len(extensions)],
        )
        for number in range(count)
    ]
    if layout.split_per_part and splits:
        cut = [[image for image in images if image.split == split] for split in splits]
    else:
        size = -(-len(images) // parts)
        cut = [images[first : first + size] for first in range(0, len(images), size)]
    for part, some in enumerate(cut):
        yield dataset(splits=splits, part=part, parts=len(cut)), some


def write(layout: type[Layout], described: Dataset, samples: Iterable[Sample]) -> Written:
    """Run a layout over the images of an archive."""
    made = layout(described)
    names: list[str] = []
    files: dict[str, bytes] = {}
    images: list[str] = []

    def take(entry: Entry) -> None:
        assert entry.path not in files
        files[entry.path] = content(entry)

    for one in samples:
        name, entries = made.add(one)
        names.append(name)
        for entry in entries:
            take(entry)
            if entry.body is one.body:
                images.append(entry.path)
    for entry in made.close():
        take(entry)
    return Written(names=names, files=files, images=images)


def content(entry: Entry) -> bytes:
    """Return the content of a file. Assert that size and checksum of a spool are right."""
    if isinstance(entry.body, bytes):
        return entry.body
    spool: Spool = entry.body
    size, sha256 = spool.size, spool.sha256
    body = b"".join(spool.blocks())
    assert (len(body), hashlib.sha256(body).hexdigest()) == (size, sha256)
    return body

"""Paths of images in a folder per class, and the metadata files that Hugging Face reads."""

import json
import re
from collections import Counter
from collections.abc import Iterator

from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Sample
from pixcrawler_worker.exporters.spool import Spool

METADATA = "metadata.jsonl"
_JSON = json.JSONEncoder(ensure_ascii=False)
#: Patterns of all images, by the last letter of their names, and of their metadata, but not of images.csv, failed.jsonl
#: or ATTRIBUTION.txt: Hugging Face infers the kind of a dataset from the majority of its files, and takes one with one
#: image for a table.
EVERYTHING = ("**/*[fgp]", f"**/{METADATA}")
#: Strings that pyarrow parses as a timestamp in JSON. Source: `ParseTimestampISO8601` in arrow/util/value_parsing.h.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d(?::?\d\d){0,2}(?:Z|[+-]\d\d(?::?\d\d)?)?)?")
_SECONDS = re.compile(r"\d\d:\d\d:\d\d")


class Folders:
    """Paths `<split>/<class>/<file>`, with subfolders where a folder would have too many files.

    Parts can be unpacked into one folder, so their paths must not collide: if there are several, each part has its own
    subfolders, named by its number.

    Args:
        dataset: of the images.
        has_metadata: whether the layout has `Metadata`, which is in the folders of images if there are several parts.
    """

    def __init__(self, dataset: Dataset, *, has_metadata: bool = False) -> None:
        self._dataset = dataset
        self._images_per_folder = dataset.max_files_per_dir - (has_metadata and dataset.parts > 1)
        self._files: Counter[str] = Counter()

    def path(self, sample: Sample) -> str:
        """Return the path of the next image."""
        folder = "/".join(filter(None, (sample.split, class_folder(sample.label))))
        number = self._files[folder] // self._images_per_folder
        self._files[folder] += 1
        if self._dataset.parts > 1:
            folder += f"/part-{self._dataset.part:05d}" + (f"-{number}" if number else "")
        elif number:
            folder += f"/{number:04d}"
        return f"{folder}/{sample.stem}.{sample.extension}"


class Metadata:
    """`metadata.jsonl`: one per split or one for all images; one per folder where the export has several parts.

    Hugging Face reads the nearest one in the folders above an image, among those of the image's split.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._apart = dataset.parts > 1
        self._spools: dict[str, Spool] = {}

    def add(self, path: str, sample: Sample) -> None:
        """Add the image at the path."""
        top = ""
        if self._apart:
            top = path[: path.rindex("/") + 1]
        elif sample.split and path.startswith(f"{sample.split}/"):
            top = f"{sample.split}/"
        row = {"file_name": path.removeprefix(top), **sample.row}
        for name, value in sample.row.items():
            # One character is checked first: matching the pattern against every value of every image takes too long.
            if isinstance(value, str) and value[4:5] == "-":
                row[name] = never_timestamp(value)
        name = f"{top}{METADATA}"
        if name not in self._spools:
            self._spools[name] = Spool()
        self._spools[name].write(f"{_JSON.encode(row)}\n".encode())

    def entries(self) -> Iterator[Entry]:
        """Return the metadata files."""
        for path, spool in sorted(self._spools.items()):
            yield Entry(path, spool)


def never_timestamp(value: str) -> str:
    """Return a string that pyarrow reads as a string.

    Hugging Face reads with pyarrow, which converts a column to timestamps if all its strings look like timestamps: a
    title that is a date would change, and files with and without other titles would have different schemas. Strings
    with fractions of seconds or with a space at the end are not converted.
    """
    if not _TIME.fullmatch(value):
        return value
    seconds = _SECONDS.search(value)
    return f"{value[: seconds.end()]}.000{value[seconds.end() :]}" if seconds else f"{value} "

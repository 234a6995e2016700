"""Where an image lies in a folder per class, and the metadata that Hugging Face reads beside it."""

import json
import re
from collections import Counter
from collections.abc import Iterator

from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Sample
from pixcrawler_worker.exporters.spool import Spool

METADATA = "metadata.jsonl"
_JSON = json.JSONEncoder(ensure_ascii=False)
#: All images and their metadata, by the last letters of their names, and neither images.csv nor ATTRIBUTION.txt:
#: Hugging Face takes a dataset for what most of its files are, and one with a single image for a table.
EVERYTHING = "**/*[fglp]"
#: What pyarrow takes for a time in JSON. Source: `ParseTimestampISO8601` in arrow/util/value_parsing.h.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d(?::?\d\d){0,2}(?:Z|[+-]\d\d(?::?\d\d)?)?)?")
_SECONDS = re.compile(r"\d\d:\d\d:\d\d")


class Folders:
    """Paths `<split>/<class>/<file>`, with subfolders where a folder would have too many files.

    Parts are made to be unpacked into one folder: nothing of one may lie where another one has something. So each part
    of several has subfolders of its own, named by its number.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._files: Counter[str] = Counter()

    def path(self, sample: Sample) -> str:
        """Return the path of the next image."""
        folder = "/".join(filter(None, (sample.split, slug(sample.label))))
        number = self._files[folder] // self._dataset.max_files_per_dir
        self._files[folder] += 1
        if self._dataset.parts > 1:
            folder += f"/part-{self._dataset.part:05d}" + (f"-{number}" if number else "")
        elif number:
            folder += f"/{number:04d}"
        return f"{folder}/{sample.stem}.{sample.extension}"


class Metadata:
    """`metadata.jsonl`: one for all images, or one per split, or one per folder where the export has several parts.

    Hugging Face reads the file that is nearest above an image, among those of the image's split.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._apart = dataset.parts > 1
        self._spools: dict[str, Spool] = {}

    def add(self, path: str, sample: Sample) -> None:
        """Note an image that lies at the path."""
        top = ""
        if self._apart:
            top = path[: path.rindex("/") + 1]
        elif sample.split and path.startswith(f"{sample.split}/"):
            top = f"{sample.split}/"
        row = {"file_name": path.removeprefix(top), **sample.row}
        for name, value in sample.row.items():
            # A look at one letter of each, because all of them would be looked through for every image.
            if isinstance(value, str) and value[4:5] == "-":
                row[name] = _text(value)
        where = f"{top}{METADATA}"
        if where not in self._spools:
            self._spools[where] = Spool()
        self._spools[where].write(f"{_JSON.encode(row)}\n".encode())

    def entries(self) -> Iterator[Entry]:
        """Return the files."""
        for path, spool in sorted(self._spools.items()):
            yield Entry(path, spool)


def _text(value: str) -> str:
    """Return a text that stays one.

    Hugging Face reads with pyarrow, where a column whose texts all look like times becomes one of times: a title that
    is a date would change, and files of which only some have other titles would not fit together. Fractions of seconds
    and a space at the end are what it takes for text.
    """
    if not _TIME.fullmatch(value):
        return value
    seconds = _SECONDS.search(value)
    return f"{value[: seconds.end()]}.000{value[seconds.end() :]}" if seconds else f"{value} "

"""What lies beside the images of an archive: tables, credits and digests, written while the images are."""

import csv
from collections.abc import Iterator, Mapping

from pixcrawler_worker.domain import licenses, tables
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.export.options import Extras
from pixcrawler_worker.exporters.spool import Spool

_CREDITS = "Whose each image is, as its source said when it was found. Keep these lines with the images.\n\n"


class Beside:
    """Files that lie beside the images, written while these are."""

    def __init__(self, asked: Extras) -> None:
        self.sums = Spool() if asked.sha256sums else None
        self._table = Spool() if asked.images_csv else None
        self._credits = Spool() if asked.attribution else None
        if self._table is not None:
            self._rows = csv.writer(_Lines(self._table), lineterminator="\n")
            self._rows.writerow(tables.COLUMNS)
        if self._credits is not None:
            self._credits.write(_CREDITS.encode())

    def add(self, file_name: str, row: Mapping[str, Value]) -> None:
        """Note an image: what it is called in tables, and its other columns."""
        if self._table is not None:
            self._rows.writerow((tables.cell(file_name), *tables.cells(row)))
        if self._credits is not None:
            self._credits.write(_credit(file_name, row).encode())

    def files(self) -> Iterator[tuple[str, Spool]]:
        """Yield names and what is in the files, but for the digests, which have those of all others."""
        if self._table is not None:
            yield tables.NAME, self._table
        if self._credits is not None:
            yield "ATTRIBUTION.txt", self._credits


class _Lines:
    """What csv writes its lines to: one writer for all of them, which are passed on as bytes."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def write(self, line: str) -> None:
        self._spool.write(line.encode())


def _credit(file_name: str, row: Mapping[str, Value]) -> str:
    """Return a line on whose an image is; what its source gave no attribution for is put together from what is known.

    Source of the order: Creative Commons, "Recommended practices for attribution" (title, author, source, license).
    """
    known = str(row["attribution"])
    if not known:
        title = f'"{row["title"]}"' if row["title"] else "untitled"
        known = f"{title} by {row['author'] or 'an unknown author'}, license {row['license'] or 'unknown'}"
    text = str(row["license_url"]) or licenses.deed(str(row["license"])) or ""
    parts = (file_name, known, text, str(row["page_url"] or row["source_url"]))
    return " ".join(" | ".join(filter(None, parts)).split()) + "\n"

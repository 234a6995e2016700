"""The sidecar files of an archive: tables, credits and checksums, written while the images are."""

import csv
from collections.abc import Collection, Iterator, Mapping

from pixcrawler_worker.domain import licenses, tables
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.export.options import Extras
from pixcrawler_worker.exporters.spool import Spool

_CREDITS_HEADING = "Credits of the images, as their sources stated them. Keep these lines with the images.\n\n"


class Sidecars:
    """The sidecar files that the options ask for.

    Args:
        options: which ones.
        columns: names of the columns that tables have besides `tables.COLUMNS`.

    Attributes:
        checksums: `SHA256SUMS`; None when the options leave it out.
    """

    def __init__(self, options: Extras, columns: Collection[str] = ()) -> None:
        self._columns = columns
        self.checksums = Spool() if options.sha256sums else None
        self._table = Spool() if options.images_csv else None
        self._credits = Spool() if options.attribution else None
        if self._table is not None:
            self._rows = csv.writer(_Utf8Lines(self._table), lineterminator="\n", quoting=csv.QUOTE_ALL)
            self._table.write(tables.header(columns).encode())
        if self._credits is not None:
            self._credits.write(_CREDITS_HEADING.encode())

    def add(self, file_name: str, row: Mapping[str, Value]) -> None:
        """Add an image: its name in tables, and its other columns."""
        more = (tables.cell(row[name], max_length=tables.MAX_CELL) for name in self._columns)
        cells = (tables.cell(file_name), *tables.cells(row), *more)
        credit = _credit_line(file_name, row).encode()
        if self._table is not None:
            self._rows.writerow(cells)
        if self._credits is not None:
            self._credits.write(credit)

    def files(self) -> Iterator[tuple[str, Spool]]:
        """Yield names and contents of the files, without the checksums, which cover all others."""
        if self._table is not None:
            yield tables.NAME, self._table
        if self._credits is not None:
            yield "ATTRIBUTION.txt", self._credits


class _Utf8Lines:
    """The file of a csv writer: encodes its lines into a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def write(self, line: str) -> None:
        self._spool.write(line.encode())


def _credit_line(file_name: str, row: Mapping[str, Value]) -> str:
    """Return the attribution of an image, built from author, title and license if its source stated none.

    The row has safe texts: the line has no other line ends, and nothing that controls a terminal.

    Source of the order: Creative Commons, "Recommended practices for attribution" (title, author, source, license).
    """
    attribution = str(row["attribution"])
    if not attribution:
        title = f'"{row["title"]}"' if row["title"] else "untitled"
        attribution = f"{title} by {row['author'] or 'an unknown author'}, license {row['license'] or 'unknown'}"
    text = str(row["license_url"]) or licenses.deed_url(str(row["license"])) or ""
    parts = (file_name, attribution, text, str(row["page_url"] or row["source_url"]))
    return " ".join(" | ".join(filter(None, parts)).split()) + "\n"

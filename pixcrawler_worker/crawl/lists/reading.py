"""Reading a URL list of any format that is known, compressed or not."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from pixcrawler_worker.crawl.lists import json_rows, parquet, plain_text, rows, separated
from pixcrawler_worker.crawl.lists.compression import Joined, damage_named, decompressed
from pixcrawler_worker.crawl.lists.plain_text import Structure
from pixcrawler_worker.crawl.lists.rows import FOUND, Columns, Note, Notes
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError

#: Bytes by which the format is found: several rows, also of the longest captions.
_HEAD = 1 << 18


def read(file: BinaryIO, name: str, columns: Columns = FOUND, notes: Notes | None = None) -> Iterator[ListRow]:
    """Yield the rows of a list.

    What is no URL, among much that is, is yielded, too: each is the trouble of its own candidate.

    Args:
        file: the list: text with a URL per line, CSV, TSV, JSON, JSON Lines or Parquet, as it is, or compressed with
            gzip or Zstandard. What is in memory does not depend on its size.
        name: of the list, for messages.
        columns: that have the URLs, the captions and the labels, where the list is a table.
        notes: what is changed in rows is added to them.

    Raises:
        PermanentError: when the file is damaged, in another format, or has no URLs; the message says what it looks
            like, and what to do.
    """
    notes = Notes() if notes is None else notes
    with damage_named(name):
        plain = decompressed(file, name)
        head = plain.read(_HEAD)
        whole = io.BufferedReader(Joined(head, plain))
        if head.startswith(parquet.MAGIC):
            notes.unit = "row"
            yield from rows.listed(parquet.rows(whole, name, notes.unread), name, columns, notes)
            return
        structure = plain_text.structure(head)
        if structure is None:
            if given := [f"--{one}-column" for one, column in columns._asdict().items() if column]:
                raise PermanentError(f"{name} has no columns: {given[0]} is for CSV, TSV, JSON and Parquet")
            for line in plain_text.read(whole, name):
                if not plain_text.is_url(line.text):
                    notes.add(Note.NO_URL, line.number)
                yield ListRow(line.text, number=line.number)
            return
        lines = plain_text.lines(whole, head)
        match structure:
            case Structure.SEPARATED:
                table = separated.rows(lines, name)
            case Structure.JSON_LINES:
                table = json_rows.lines(lines, name)
            case Structure.JSON:
                table = json_rows.values(lines, name)
        yield from rows.listed(table, name, columns, notes)

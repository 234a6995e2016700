"""Reading a URL list of any format that is known, compressed or not."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from pixcrawler_worker.crawl.lists import json_rows, parquet, plain_text, rows, separated
from pixcrawler_worker.crawl.lists.compression import Joined, damage_named, decompressed
from pixcrawler_worker.crawl.lists.plain_text import Line, Structure
from pixcrawler_worker.errors import PermanentError

#: Bytes by which the format is found.
_HEAD = 1 << 16


def read(file: BinaryIO, name: str, *, url_column: str | None = None) -> Iterator[Line]:
    """Yield the URLs of a list with the numbers of their lines, or of their rows.

    What is no URL, among much that is, is yielded, too: each is the trouble of its own candidate.

    Args:
        file: the list: text with a URL per line, CSV, TSV, JSON, JSON Lines or Parquet, as it is, or compressed with
            gzip or Zstandard. What is in memory does not depend on its size.
        name: of the list, for messages.
        url_column: that has the URLs, where the list is a table; None to find it.

    Raises:
        PermanentError: when the file is damaged, in another format, or has no URLs; the message says what it looks
            like, and what to do.
    """
    with damage_named(name):
        plain = decompressed(file, name)
        head = plain.read(_HEAD)
        whole = io.BufferedReader(Joined(head, plain))
        if head.startswith(parquet.MAGIC):
            yield from rows.urls(parquet.rows(whole, name), name, url_column)
            return
        structure = plain_text.structure(head)
        if structure is None:
            if url_column is not None:
                raise PermanentError(f"{name} has no columns: --url-column is for CSV, TSV, JSON and Parquet")
            yield from plain_text.read(whole, name)
            return
        lines = plain_text.lines(whole, head)
        match structure:
            case Structure.SEPARATED:
                table = separated.rows(lines, name)
            case Structure.JSON_LINES:
                table = json_rows.lines(lines, name)
            case Structure.JSON:
                table = json_rows.values(lines, name)
        yield from rows.urls(table, name, url_column)

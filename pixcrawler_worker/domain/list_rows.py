"""A row of a URL list: a URL with what the list says about its image."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.errors import PermanentError

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
#: The details of a row that says nothing besides its URL.
NOTHING = "null"

#: Columns of a list of what failed, as `pixcrawler jobs failures` writes it, and two more where the job's URL list said
#: something about its images: such a list is a URL list, and has all of the rows that it was made of.
FAILED = ("url", "label", "reason", "detail", "http_status", "retriable", "attempts", "time")
FAILED_DETAILS = ("caption", "columns")


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row of a URL list.

    Attributes:
        url: without what lists have around it; it may be any text: each row is the trouble of its own candidate.
        caption: of the image; None for none.
        label: of the image; None for the label of the job.
        columns: the values of all other columns, in JSON, by name.
        number: of its line in the list, or of the row itself in formats without lines, from 1; 0 where it is not known.
    """

    url: str
    caption: str | None = None
    label: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0

    def details(self) -> dict[str, Any] | None:
        """Return what the row says besides its URL, as a JSON object; None for nothing."""
        details: dict[str, Any] = {}
        if self.caption is not None:
            details["caption"] = self.caption
        if self.label is not None:
            details["label"] = self.label
        if self.columns:
            details["columns"] = dict(self.columns)
        return details or None

    @classmethod
    def of(cls, url: str, details: object, number: int = 0) -> "ListRow":
        """Return the row with that URL and those details.

        Raises:
            PermanentError: when they are no details; the message says what was expected.
        """
        if details is None:
            return cls(url, number=number)
        if not isinstance(details, Mapping):
            raise PermanentError(f"details of a row: expected an object, got {stored_json.quoted(details)}")
        caption, label, columns = (details.get(name) for name in ("caption", "label", "columns"))
        for name, value in (("caption", caption), ("label", label)):
            if not isinstance(value, str | None):
                raise PermanentError(f"details.{name} of a row: expected a string, got {stored_json.quoted(value)}")
        if not isinstance(columns, Mapping | None):
            raise PermanentError(f"details.columns of a row: expected an object, got {stored_json.quoted(columns)}")
        return cls(url, caption, label, columns or {}, number)


class ListPage(NamedTuple):
    """Some rows of a URL list, as they are stored.

    Attributes:
        urls: of the rows.
        details: what each of them says besides, as the text of a JSON value: `NOTHING`, or an object.
        numbers: see `ListRow`.
    """

    urls: list[str]
    details: list[str]
    numbers: list[int]

    @classmethod
    def of(cls, rows: Iterable[ListRow]) -> "ListPage":
        """Return a page with these rows."""
        urls, details, numbers = [], [], []
        for row in rows:
            urls.append(row.url)
            details.append(_details(row))
            numbers.append(row.number)
        return cls(urls, details, numbers)

    def part(self, start: int, end: int | None) -> "ListPage":
        """Return some of the rows, by their positions."""
        return ListPage(self.urls[start:end], self.details[start:end], self.numbers[start:end])

    def rows(self) -> Iterator[ListRow]:
        """Yield the rows."""
        return map(ListRow.of, self.urls, map(json.loads, self.details), self.numbers)


def _details(row: ListRow) -> str:
    """Return the details of a row in JSON. Texts, which most of them are, need no encoder for objects."""
    parts = []
    if row.caption is not None:
        parts.append(f'"caption":{_json(row.caption)}')
    if row.label is not None:
        parts.append(f'"label":{_json(row.label)}')
    if row.columns:
        columns = [f"{encode_basestring(name)}:{_json(value)}" for name, value in row.columns.items()]
        parts.append(f'"columns":{{{",".join(columns)}}}')
    return f"{{{','.join(parts)}}}" if parts else NOTHING


def _json(value: object) -> str:
    if type(value) is str:
        return encode_basestring(value)
    # Both write numbers as the encoder does.
    return repr(value) if type(value) is int or type(value) is float else _encoder.encode(value)


def pages(rows: Iterable[ListRow], size: int) -> Iterator[ListPage]:
    """Yield pages of so many rows; the last one has what is left."""
    remaining = iter(rows)
    while (page := ListPage.of(itertools.islice(remaining, size))).urls:
        yield page

"""The rows of a list that is a table, whatever its format, and the column that has the URLs."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from enum import StrEnum
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists import failed_rows, json_objects
from pixcrawler_worker.crawl.lists.column_names import CAPTIONS, LABELS, URLS, by_name, of_urls, others_of_urls
from pixcrawler_worker.crawl.lists.plain_text import decoded, escaped, is_plain, is_url, trimmed
from pixcrawler_worker.domain.list_columns import MAX_CAPTION, MAX_COLUMNS, kept_caption, kept_columns, kept_integer
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.domain.safe_text import MAX_LENGTH
from pixcrawler_worker.domain.stored_json import is_deeper
from pixcrawler_worker.errors import PermanentError

#: Rows by which the column with the URLs is found.
_SAMPLE = 100
#: Characters of a label, as in messages.
MAX_LABEL = options.MAX_NAME
#: Labels that are counted, at most; and from how many on, with fewer rows for each, they are no classes.
_COUNTED_LABELS, _MANY_LABELS, _ROWS_OF_LABEL = 10_000, 100, 3
#: Columns whose names are listed in a message.
_SHOWN = 12
#: Names of columns that are remembered while a list is read.
_REMEMBERED = 10_000
#: Characters of a row from which its columns are compared with what is kept of them: each may be 12 bytes in JSON.
_LONG = MAX_LENGTH // 2


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        number: of its line from 1; of the row itself, in formats without lines.
        values: by the name of the column.
        mistake: what is in place of a row that cannot be read; None for one that can.
        is_open: whether that is a quotation mark that is not closed.
    """

    number: int
    values: Mapping[str, object]
    mistake: str | None = None
    is_open: bool = False


class Columns(NamedTuple):
    """The names of the columns that have the URLs, the captions and the labels.

    None is to find one, and "" that there are no captions, or no labels.
    """

    url: str | None = None
    caption: str | None = None
    label: str | None = None


#: All columns are found.
FOUND = Columns()


class Note(StrEnum):
    """What was changed in rows that were read all the same."""

    NOT_UTF_8 = "bytes that are not UTF-8 are read as Windows-1252: save the list as UTF-8 if that is wrong"
    NO_URL = "there is no URL, so that the row will be rejected as bad_url"
    MISTAKE = "the row has more cells than columns, or is neither a URL nor an object: it will be rejected as bad_url"
    OPEN = "a quotation mark is not closed, so that the line will be rejected as bad_url: write two for one in a cell"
    CAPTION = f"the caption has more than {MAX_CAPTION:,} characters, and is cut off"
    LABEL = f"the label has more than {MAX_LABEL} characters, and is kept as a column: the keyword is the label"
    COLUMNS = f"the columns are more or longer than is kept: {MAX_COLUMNS} of them, {MAX_LENGTH:,} characters in each"


@dataclass(slots=True)
class LabelCount:
    """How many different labels a list has, as far as is counted.

    Attributes:
        column: with the labels, if it was found by its name; nothing is counted otherwise.
        rows: with a label.
        hashes: of the labels.
    """

    column: str | None = None
    rows: int = 0
    hashes: set[int] = field(default_factory=set)

    def add(self, label: str | None) -> None:
        """Count the label of a row; None for none."""
        if label is not None and self.column is not None and len(self.hashes) < _COUNTED_LABELS:
            self.rows += 1
            self.hashes.add(hash(label))

    @property
    def looks_like_ids(self) -> bool:
        """Whether the labels are so many that they are no classes."""
        return len(self.hashes) >= _MANY_LABELS and self.rows < _ROWS_OF_LABEL * len(self.hashes)


@dataclass(slots=True)
class Notes:
    """Counts of the rows that were changed, and the numbers of the first of them.

    Attributes:
        counts: by what was changed.
        first: number of the first row, likewise.
        unit: what the numbers are of.
        labels: how many there are.
        unread: columns that are not read, since they have files in them.
        urls: the column with them, and others that may be meant; empty where it was chosen, or is the only one.
    """

    counts: Counter[Note] = field(default_factory=Counter)
    first: dict[Note, int] = field(default_factory=dict)
    unit: Literal["line", "row"] = "line"
    labels: LabelCount = field(default_factory=LabelCount)
    unread: list[str] = field(default_factory=list)
    urls: tuple[str, ...] = ()

    def add(self, note: Note, number: int) -> None:
        """Note that a row was changed."""
        self.counts[note] += 1
        self.first.setdefault(note, number)

    def lines(self, name: str) -> Iterator[str]:
        """Yield a line for each kind of change.

        Args:
            name: of the list.
        """
        if self.urls:
            given, *rivals = self.urls
            yield (
                f"{name}: the URLs are those in the column {options.quoted(given)}, though {_list(rivals)} may be "
                "meant: choose with --url-column"
            )
        for note, count in self.counts.items():
            others = "" if count == 1 else f" ({count:,} rows in all)"
            yield f"{name}, {self.unit} {self.first[note]}: {note}{others}"
        if self.labels.looks_like_ids:
            column, count = options.quoted(self.labels.column or ""), len(self.labels.hashes)
            first = "the first " if count == _COUNTED_LABELS else ""
            yield (
                f"{name}: the column {column} has {count:,} labels in {first}{self.labels.rows:,} rows, as a column "
                'of ids has. If it has no classes, choose another one with --label-column, or "" for none'
            )


def listed(rows: Iterator[Row], name: str, columns: Columns, notes: Notes) -> Iterator[ListRow]:
    """Yield the rows of a table by what their columns mean. A row without a URL has what is in place of it.

    Args:
        rows: of the table.
        name: of the list, for messages.
        columns: with the URLs, found by its name or by what is in it where none is given; with captions and labels,
            found by their usual names.
        notes: what is changed is added to them.

    Raises:
        PermanentError: when there is no such column, or none has URLs; the message names those that there are.
    """
    rows = _named(rows)
    sample = list(islice(rows, _SAMPLE))
    readable = [row.values for row in sample if row.mistake is None]
    if not any(readable):
        raise PermanentError(f"{name} contains no URLs: it has no row that can be read{_mistake(sample, notes)}")
    if failed_rows.row_of(readable[0], 1) is not None:
        yield from _failed(chain(sample, rows), name, notes)
        return
    found = _found(readable, name, columns, notes)
    notes.labels.column = found.label if columns.label is None else None
    known = set(chain.from_iterable(readable))
    has_urls = False
    for row in chain(sample, rows):
        if row.mistake is not None:
            notes.add(Note.OPEN if row.is_open else Note.MISTAKE, row.number)
            yield ListRow(_url(row.mistake), number=row.number)
            continue
        if not row.values.keys() <= known and len(known) < _REMEMBERED:
            late = [one for one in row.values if one not in known]
            known.update(late)
            found = _found_late(found, late, columns)
            notes.labels.column = found.label if columns.label is None else None
        meant = _meant(row, found, notes)
        has_urls = has_urls or bool(meant.url)
        yield meant
    if not has_urls:
        is_text = ", or bytes that are no text" if notes.unit == "row" else ""
        raise PermanentError(
            f"{name} has no URLs in its column {options.quoted(found.url)}: all of its rows are empty{is_text}"
        )


def _mistake(sample: Sequence[Row], notes: Notes) -> str:
    """Return what is in place of the first row that has a URL in it."""
    found = next((one for one in sample if one.mistake and "://" in one.mistake), None)
    return (
        "" if found is None else f". {notes.unit.capitalize()} {found.number} is {options.quoted(found.mistake or '')}"
    )


def unique(names: Sequence[str]) -> list[str]:
    """Return the names of columns, those without one and those that occur again by their number."""
    taken = set(names)
    found: list[str] = []
    seen: set[str] = set()
    for at, name in enumerate(names, start=1):
        given = name
        if not name or name in seen:
            given = _free(at, taken)
        taken.add(given)
        seen.add(given)
        found.append(given)
    return found


def _free(number: int, taken: set[str]) -> str:
    while (name := f"column {number}") in taken:
        number += 1
    return name


def _named(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows with names of columns that can be stored."""
    plain: set[str] = set()
    for row in rows:
        if row.values.keys() <= plain:
            yield row
            continue
        names = [storable(decoded(str(one))) for one in row.values]
        if names == list(row.values):
            if len(plain) > _REMEMBERED:
                plain.clear()
            plain.update(names)
            yield row
        else:
            yield row._replace(values=dict(zip(unique(names), row.values.values(), strict=True)))


def _found(readable: Sequence[Mapping[str, object]], name: str, columns: Columns, notes: Notes) -> Columns:
    names = list(dict.fromkeys(chain.from_iterable(readable)))
    with_urls = [one for one in names if any(_has_url(values.get(one)) for values in readable)]
    if columns.url is None:
        url = _url_column(with_urls, names, name, readable, notes)
        if others := others_of_urls(with_urls, url):
            notes.urls = (url, *others)
    else:
        url = _wanted(names, name, columns.url, len(readable))
        if url not in with_urls and not _is_blank(url, readable):
            hint_ = f": {_list(with_urls)} has them" if with_urls else ""
            raise PermanentError(
                f"{name} has no URLs in its column {options.quoted(url)} among its first {len(readable)} rows{hint_}"
            )
    found = [url]
    for wanted, usual in ((columns.caption, CAPTIONS), (columns.label, LABELS)):
        others = [one for one in names if one not in found]
        column = by_name(others, usual) if wanted is None else wanted and _wanted(names, name, wanted, len(readable))
        if column and column in found:
            raise PermanentError(f"{name}: the column {options.quoted(column)} cannot be two things")
        found.append(column or "")
    return Columns(url, found[1] or None, found[2] or None)


def _found_late(found: Columns, names: Sequence[str], columns: Columns) -> Columns:
    """Return the columns with those that later rows have first, where none was given."""
    caption = by_name(names, CAPTIONS) if columns.caption is None else None
    label = by_name(names, LABELS) if columns.label is None else None
    return found._replace(caption=found.caption or caption, label=found.label or label)


def _meant(row: Row, columns: Columns, notes: Notes) -> ListRow:
    """Return what the columns of a row mean."""
    url = ""
    kept: dict[str, Any] = {}
    length, is_flat = 0, True
    for one, value in row.values.items():
        if one == columns.url:
            url = "" if value is None else _url(value if isinstance(value, str) else str(value))
        elif type(value) is str:
            if value:
                length += len(one) + len(value)
                kept[one] = value if value.isascii() and "\x00" not in value else _text(value, row.number, notes)
        elif (plain := _json(value)) is not None:
            is_flat = is_flat and isinstance(plain, bool | int | float | str)
            kept[one] = plain
    if not is_url(url):
        notes.add(Note.NO_URL, row.number)
    caption = _word(kept.pop(columns.caption, None)) if columns.caption else None
    label = _word(kept.pop(columns.label, None)) if columns.label else None
    if caption is not None and len(caption) > MAX_CAPTION:
        notes.add(Note.CAPTION, row.number)
        caption = kept_caption(caption)
    if label is not None and len(label) > MAX_LABEL:
        notes.add(Note.LABEL, row.number)
        kept[columns.label or ""], label = label, None
    notes.labels.add(label)
    if length > _LONG or not is_flat or len(kept) > MAX_COLUMNS:
        kept = _bounded(kept, row.number, notes)
    return ListRow(url, caption, label, kept, row.number)


def _bounded(kept: dict[str, Any], number: int, notes: Notes) -> dict[str, Any]:
    bounded = kept_columns(kept) or {}
    if bounded != kept:
        notes.add(Note.COLUMNS, number)
    return bounded


def _failed(rows: Iterator[Row], name: str, notes: Notes) -> Iterator[ListRow]:
    """Yield the rows of a list of what failed; those whose URL a job did not keep are left out."""
    for row in rows:
        found = failed_rows.row_of(row.values, row.number)
        if found is None:
            given = options.quoted(row.mistake if row.mistake is not None else json.dumps(row.values, default=str))
            raise PermanentError(f"{name}, line {row.number}: expected a line of failed.jsonl, got {given}")
        if found.url:
            yield _readable(found, notes)


def _readable(row: ListRow, notes: Notes) -> ListRow:
    """Return a row of what failed as rows of other lists are read: another program may have saved it."""
    caption, label = (None if one is None else _text(one, row.number, notes) for one in (row.caption, row.label))
    columns = {storable(decoded(name)): _json(value) for name, value in row.columns.items()}
    return ListRow(
        storable(escaped(row.url)), caption, label, columns and _bounded(columns, row.number, notes), row.number
    )


def _url(text: str) -> str:
    return text if is_plain(text) else storable(trimmed(escaped(text)))


def _text(value: str, number: int, notes: Notes) -> str:
    text = decoded(value)
    if text is not value and text != value:
        notes.add(Note.NOT_UTF_8, number)
    return storable(text)


def _word(value: object) -> str | None:
    """Return a caption or a label; None for one that is blank."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.strip() or None


def _json(value: object) -> object:
    """Return the value of a column in JSON; None for none."""
    plain: object = None
    match value:
        case str():
            plain = storable(decoded(value))
        case bool():
            plain = value
        case int():
            plain = kept_integer(value)
        case float():
            # Programs that write tables have NaN where a number is missing.
            plain = value if math.isfinite(value) else None
        case Mapping():
            plain = (
                value if is_deeper(value) else {storable(decoded(str(key))): _json(one) for key, one in value.items()}
            )
        case list() | tuple():
            plain = value if is_deeper(value) else [_json(one) for one in value]
        case date() | time():
            plain = value.isoformat()
        case _ if value is not None:
            plain = str(value)
    return plain


def _url_column(
    with_urls: Sequence[str], names: Sequence[str], name: str, readable: Sequence[Mapping[str, object]], notes: Notes
) -> str:
    texts = {one: [text for row in readable if isinstance(text := row.get(one), str)] for one in with_urls}
    if (usual := of_urls(texts)) is not None:
        return usual
    if not with_urls:
        # URLs may begin later.
        blank = by_name([one for one in names if _is_blank(one, readable)], URLS)
        if blank is not None:
            return blank
        nested = _nested(names, name, readable, notes)
        raise PermanentError(
            f"{name} has no column with URLs among its first {len(readable)} rows{nested}: it has {_list(names)}"
        )
    # A caption may be a URL, too.
    frequent = [one for one in with_urls if 2 * sum(_has_url(values.get(one)) for values in readable) > len(readable)]
    if len(frequent) == 1:
        return frequent[0]
    if len(with_urls) > 1:
        raise PermanentError(
            f"{name} has several columns with URLs: choose one with --url-column, of {_list(with_urls)}"
        )
    return with_urls[0]


def _is_blank(name: str, readable: Sequence[Mapping[str, object]]) -> bool:
    return all(values.get(name) in (None, "") for values in readable)


def _nested(names: Sequence[str], name: str, readable: Sequence[Mapping[str, object]], notes: Notes) -> str:
    """Return what to say of URLs that are deeper than in a column."""
    found = [one for one in names if any(_has_nested_url(values.get(one)) for values in readable)]
    if not found:
        return f" ({_list(notes.unread)} has files instead, which are not read)" if notes.unread else ""
    # What has lines and nested values is JSON.
    command = json_objects.advice(readable[0], name) if notes.unit == "line" and len(readable) == 1 else ""
    how = f", as {command} does" if command else ""
    return (
        f", since those in {_list(found)} are in arrays or objects (write a row for each image, its URL as a text{how})"
    )


def _has_nested_url(value: object) -> bool:
    return isinstance(value, Mapping | list) and not is_deeper(value) and re.search("https?://", str(value)) is not None


def _wanted(names: Sequence[str], name: str, wanted: str, rows: int) -> str:
    if wanted in names:
        return wanted
    same = [one for one in names if one.casefold() == wanted.casefold()]
    if len(same) == 1:
        return same[0]
    # Each object of JSON has columns of its own.
    among = f" among its first {rows} rows" if rows == _SAMPLE else ""
    raise PermanentError(
        f"{name} has no column {options.quoted(wanted)}{among}; {hint(wanted, list(map(_shown, names)))}"
    )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(map(_shown, names[:_SHOWN]))
    return shown + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _shown(name: str) -> str:
    """Return the name of a column for a message, which has one line."""
    return options.short(" ".join(name.split()))


def _has_url(value: object) -> bool:
    return isinstance(value, str) and is_url(trimmed(value))

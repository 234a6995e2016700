"""The rows of a list that is a table, whatever its format, and the column that has the URLs."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from itertools import chain, islice
from typing import Any, NamedTuple

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists import failed_rows
from pixcrawler_worker.crawl.lists.plain_text import decoded, escaped, is_plain, is_url, trimmed
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.errors import PermanentError

#: Rows by which the column with the URLs is found.
_SAMPLE = 100
#: Names of the column with the URLs, in small letters and without what is between words, the most certain first: those
#: of img2dataset and LAION, of this service, of providers' exports, and what people write.
_NAMES = (
    "url",
    "imageurl",
    "urls",
    "imgurl",
    "sourceurl",
    "originalurl",
    "fileurl",
    "downloadurl",
    "photourl",
    "photoimageurl",
    "contenturl",
    "mediaurl",
    "imagesrc",
    "src",
    "href",
    "link",
    "imagelink",
    "image",
    "img",
    "identifier",
    "uri",
)
#: Likewise, of the columns with captions and with labels.
_CAPTIONS = ("caption", "imagecaption", "text", "alttext", "alt", "txt", "description")
_LABELS = ("label", "labelname", "class", "classname", "category", "categoryname")
#: Columns whose names are listed in a message.
_SHOWN = 12


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        number: of its line from 1; of the row itself, in formats without lines.
        values: by the name of the column.
        mistake: what is in place of a row that cannot be read; None for one that can.
    """

    number: int
    values: Mapping[str, object]
    mistake: str | None = None


class Columns(NamedTuple):
    """The names of the columns that have the URLs, the captions and the labels; None to find them."""

    url: str | None = None
    caption: str | None = None
    label: str | None = None


#: All columns are found.
FOUND = Columns()


def listed(rows: Iterator[Row], name: str, columns: Columns) -> Iterator[ListRow]:
    """Yield the rows of a table by what their columns mean. A row without a URL has what is in place of it.

    Args:
        rows: of the table.
        name: of the list, for messages.
        columns: with the URLs, found by its name or by what is in it where none is given; with captions and labels,
            found by their usual names.

    Raises:
        PermanentError: when there is no such column, or none has URLs; the message names those that there are.
    """
    sample = list(islice(rows, _SAMPLE))
    readable = [row.values for row in sample if row.mistake is None]
    names = list(dict.fromkeys(chain.from_iterable(readable)))
    if not names:
        raise PermanentError(f"{name} contains no URLs: it has no row that can be read")
    if failed_rows.row_of(readable[0], 1) is not None:
        yield from _failed(chain(sample, rows), name)
        return
    url = _url_column(readable, names, name) if columns.url is None else _wanted(names, name, columns.url)
    others = [one for one in names if one != url]
    caption, label = (
        _by_name(others, usual) if wanted is None else _wanted(names, name, wanted)
        for wanted, usual in ((columns.caption, _CAPTIONS), (columns.label, _LABELS))
    )
    for row in chain(sample, rows):
        if row.mistake is not None:
            yield ListRow(_url(row.mistake), number=row.number)
            continue
        kept: dict[str, Any] = {}
        for one, value in row.values.items():
            if value != "" and one != url and (plain := _json(value)) != "":
                kept[one] = plain
        value = row.values.get(url)
        yield ListRow(
            "" if value is None else _url(value if isinstance(value, str) else str(value)),
            _text(kept.pop(caption, None)) if caption else None,
            _text(kept.pop(label, None)) if label else None,
            kept,
            row.number,
        )


def _failed(rows: Iterator[Row], name: str) -> Iterator[ListRow]:
    """Yield the rows of a list of what failed; those whose URL a job did not keep are left out."""
    for row in rows:
        found = failed_rows.row_of(row.values, row.number)
        if found is None:
            given = options.quoted(row.mistake if row.mistake is not None else json.dumps(row.values, default=str))
            raise PermanentError(f"{name}, line {row.number}: expected a line of failed.jsonl, got {given}")
        if found.url:
            yield found


def _url(text: str) -> str:
    return text if is_plain(text) else storable(trimmed(escaped(text)))


def _text(value: object) -> str | None:
    """Return a caption or a label; None for one that is blank."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.strip() or None


def _json(value: object) -> object:
    """Return the value of a column in JSON; an empty text for none."""
    plain: object = ""
    match value:
        case str():
            # Most texts are stored as they are, and there are many.
            plain = value if value.isascii() and "\x00" not in value else storable(decoded(value))
        case bool() | int():
            plain = value
        case float():
            # Programs that write tables have NaN where a number is missing.
            plain = value if math.isfinite(value) else ""
        case Mapping():
            plain = {storable(decoded(str(key))): _json(one) for key, one in value.items()}
        case list() | tuple():
            plain = [_json(one) for one in value]
        case bytes():
            plain = storable(value.decode(errors="replace"))
        case date() | time():
            plain = value.isoformat()
        case _ if value is not None:
            plain = str(value)
    return plain


def _by_name(names: Sequence[str], usual: Sequence[str]) -> str | None:
    found = [one for one in names if _plain(one) in usual]
    return min(found, key=lambda one: usual.index(_plain(one)), default=None)


def _url_column(readable: Sequence[Mapping[str, object]], names: Sequence[str], name: str) -> str:
    with_urls = [one for one in names if any(_has_url(values.get(one)) for values in readable)]
    if not with_urls:
        raise PermanentError(
            f"{name} has no column with URLs among its first {len(readable)} rows: it has {_list(names)}"
        )
    if (by_name := _by_name(with_urls, _NAMES)) is not None:
        return by_name
    if len(with_urls) > 1:
        raise PermanentError(
            f"{name} has several columns with URLs: choose one with --url-column, of {_list(with_urls)}"
        )
    return with_urls[0]


def _wanted(names: Sequence[str], name: str, wanted: str) -> str:
    if wanted in names:
        return wanted
    same = [one for one in names if one.casefold() == wanted.casefold()]
    if len(same) == 1:
        return same[0]
    raise PermanentError(f"{name} has no column {options.quoted(wanted)}; {hint(wanted, names)}")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(options.short(one) for one in names[:_SHOWN])
    return shown + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _has_url(value: object) -> bool:
    return isinstance(value, str) and is_url(trimmed(value))

"""The rows of a list that is a table, whatever its format, and the column that has the URLs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists.plain_text import Line, escaped, is_url, trimmed
from pixcrawler_worker.domain.naming import hint
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


def urls(rows: Iterator[Row], name: str, column: str | None) -> Iterator[Line]:
    """Yield the URLs of a table. A row without one is yielded with what it has in place of it.

    Args:
        rows: of the table.
        name: of the list, for messages.
        column: with the URLs; None to find it by its name, or by what is in it.

    Raises:
        PermanentError: when there is no such column, or none has URLs; the message names those that there are.
    """
    sample = list(islice(rows, _SAMPLE))
    found = _column(sample, name, column)
    for row in chain(sample, rows):
        value = row.mistake if row.mistake is not None else row.values.get(found)
        yield Line(row.number, "" if value is None else trimmed(escaped(str(value))))


def _column(sample: Sequence[Row], name: str, wanted: str | None) -> str:
    readable = [row.values for row in sample if row.mistake is None]
    names = list(dict.fromkeys(chain.from_iterable(readable)))
    if not names:
        raise PermanentError(f"{name} contains no URLs: it has no row that can be read")
    if wanted is not None:
        return _wanted(names, name, wanted)
    with_urls = [one for one in names if any(_has_url(values.get(one)) for values in readable)]
    if not with_urls:
        raise PermanentError(
            f"{name} has no column with URLs among its first {len(sample)} rows: it has {_list(names)}"
        )
    by_name = sorted((one for one in with_urls if _plain(one) in _NAMES), key=lambda one: _NAMES.index(_plain(one)))
    if by_name:
        return by_name[0]
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

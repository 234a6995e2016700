"""Tables with a separator: CSV, TSV, and those with semicolons or bars. With a header or without."""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from pixcrawler_worker.crawl.lists.column_names import URLS, by_name, has_usual, is_image
from pixcrawler_worker.crawl.lists.plain_text import Line, is_comment, is_url, trimmed
from pixcrawler_worker.crawl.lists.rows import Row, unique
from pixcrawler_worker.errors import PermanentError

#: Characters of a line and of a cell: ten times the longest captions.
_MAX = 1 << 20
_SEPARATORS = "\t,;|"
#: Lines by which the separator is found, and characters of them.
_SAMPLE, _SAMPLE_LENGTH = 20, 1 << 18
#: What `csv` says of a quotation mark that is not closed.
_OPEN = "unexpected end of data"
#: What a blank row may have: spaces, zero bytes, and the end of a DOS file.
_BLANK = " \t\r\n\x00\x1a"

#: What is no name of a column with URLs: nothing, a mark for that, a path, or a URL of another scheme.
_NO_NAME = re.compile(r"|-|n/?a|nan|null|none|\\n|[a-z][a-z0-9+.-]*:.*|\S*[/\\]\S*\.\w{2,5}", re.IGNORECASE)


class _Form(NamedTuple):
    """How the lines of a table are divided; the separator is empty for a table of one column."""

    separator: str
    has_header: bool


def rows(lines: Iterator[Line], name: str) -> Iterator[Row]:
    """Yield the rows of a table, with the names in its header; without one, `column 1` and so on.

    A row with more cells than the header names is a mistake as a whole: a separator in one of its cells would shift the
    others. So is a line with a quotation mark that is closed in a later row by chance: what is between are rows.

    Args:
        lines: of the file, with their ends, since a cell in quotation marks may have several.
        name: of the list, for messages.

    Raises:
        PermanentError: when a quotation mark is not closed, as in a list that is cut off, or a line is too long.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _MAX))
    started, form = _begin(lines)
    checked = _checked(started, name)
    table = _cells(checked, form.separator, name) if form.separator else _single(checked)
    header: Sequence[str] = ()
    if form.has_header:
        header = unique([cell.strip(" \ufeff") for cell in next(table)[1]])
    for number, cells, open_ in table:
        if open_:
            yield Row(number, {}, f"a quotation mark that is not closed: {open_.strip()}", is_open=True)
            continue
        names = header or [f"column {at + 1}" for at in range(len(cells))]
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if not any(cell.strip(_BLANK) for cell in cells):
            continue
        if len(cells) > len(names):
            # No URL, even where one begins it: what is in its cells is not known.
            found = (form.separator or ",").join(cells)
            yield Row(number, {}, f"{len(cells)} cells for {len(names)} columns: {found}")
            continue
        yield Row(number, dict(zip(names, cells, strict=False)))


def _begin(lines: Iterator[Line]) -> tuple[Iterator[Line], _Form]:
    """Return the lines without those before the table, and how they are divided."""
    given = None
    comments: list[Line] = []
    for line in lines:
        text = line.text.strip()
        if found := re.fullmatch("sep=(.)", text):
            # Written for Excel, which does not show it.
            given = found[1]
        elif text and not is_comment(text):
            break
        elif text and len(comments) < _SAMPLE:
            comments.append(line)
    else:
        return iter(()), _Form("", has_header=False)
    ahead = [line]
    while len(ahead) < _SAMPLE and sum(len(one.text) for one in ahead) < _SAMPLE_LENGTH:
        if (following := next(lines, None)) is None:
            break
        ahead.append(following)
    # A line that is too long is an error once it is read.
    sample = [one.text[:_MAX] for one in ahead if one.text.strip(_BLANK)]
    form = _form(sample, given or _SEPARATORS)
    if form.separator and not form.has_header:
        kept, form = _commented(comments, sample[0], form)
        ahead = [*kept, *ahead]
    return chain(ahead, lines), form


def _commented(comments: Sequence[Line], first: str, form: _Form) -> tuple[list[Line], _Form]:
    """Return the lines before the first row of a table that are none of comments: captions begin with `#`, too.

    So may a header: `#url,caption`.
    """

    def cells(text: str) -> list[str]:
        return next(_parsed(iter([text]), form.separator), [])

    width = len(cells(first))
    found = [line for line in comments if len(cells(line.text)) == width]
    rows = [line for line in found if any(_is_url(trimmed(cell)) for cell in cells(line.text))]
    headers = [line for line in found if line not in rows and by_name(cells(line.text), URLS)]
    if not headers:
        return rows, form
    header = headers[-1]
    plain = header._replace(text=header.text.lstrip("#;/ "))
    return [plain, *(row for row in rows if row.number > header.number)], form._replace(has_header=True)


def _form(sample: Sequence[str], separators: str) -> _Form:
    """Return how lines are divided: so that most of them have a URL in a cell, and as many cells as the first one."""
    divided = {one: _rows_of(sample, one) for one in separators}
    separator = max(divided, key=lambda one: _fit(divided[one], one))
    rows = divided[separator]
    if len(rows[0]) < 2:  # noqa: PLR2004 - there is nothing to separate
        return _Form("", has_header=not is_url(trimmed(sample[0])))
    return _Form(separator, has_header=_is_header(rows))


def _rows_of(sample: Sequence[str], separator: str) -> list[list[str]]:
    """Return the rows of a sample, of which the last one may be cut off; at least one."""
    found = []
    try:
        for row in _parsed(iter(sample), separator):
            found.append(row)  # noqa: PERF402 - those before an error count
    except csv.Error:
        pass
    return found or [[]]


def _fit(rows: Sequence[Sequence[str]], separator: str) -> tuple[int, ...]:
    """Return how well lines are divided: the larger, the better."""
    width = len(rows[0])
    if width < 2:  # noqa: PLR2004
        return (0,)
    fitting = [row for row in rows if len(row) == width]
    urls = [found for row in fitting if (found := [url for cell in row if _is_url(url := trimmed(cell))])]
    others = set(_SEPARATORS) - {separator}
    return (
        1,
        # Names of columns are in no text, unless it is in a row with a URL.
        int(has_usual(rows[0]) and not any(is_url(trimmed(cell)) for cell in rows[0])),
        len(urls),
        # No text has tabs in it; URLs may have commas, of which each would divide them.
        int(separator == "\t"),
        sum(any(map(is_image, found)) for found in urls),
        sum(any(others.isdisjoint(url) for url in found) for found in urls),
        width,
    )


def _is_url(text: str) -> bool:
    return is_url(text) and not re.search(r"\s", text)


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row has the names of the columns: a row of data may have no URL, too."""
    first, *others = rows
    if any(is_url(trimmed(cell)) for cell in first):
        return False
    if has_usual(first):
        return True
    places = Counter(at for row in others for at, cell in enumerate(row) if _is_url(trimmed(cell)))
    place = places.most_common(1)[0][0] if places else len(first)
    return place >= len(first) or not _NO_NAME.fullmatch(trimmed(first[place]))


def _parsed(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    if separator == "\t":
        # Programs that write tabs leave quotation marks as they are: one that begins a cell would not end with it.
        return ([_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")] for line in lines)
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _unquoted(cell: str) -> str:
    inside = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if inside else cell


def _checked(lines: Iterator[Line], name: str) -> Iterator[Line]:
    for line in lines:
        if len(line.text) > _MAX:
            raise PermanentError(f"{name}, line {line.number}: a line of more than {_MAX:,} characters")
        yield line


def _single(lines: Iterator[Line]) -> Iterator[tuple[int, list[str], str]]:
    """Yield the rows of a table with one column, as `_cells` does."""
    for line in lines:
        yield line.number, [_unquoted(line.text.strip())], ""


def _cells(lines: Iterator[Line], separator: str, name: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield the number of the first line of each row, its cells, and its text if it leaves a quotation mark open."""
    of_row: list[Line] = []
    again: deque[Line] = deque()

    def texts() -> Iterator[str]:
        while line := again.popleft() if again else next(lines, None):
            of_row.append(line)
            yield line.text

    following = texts()
    parsed = _parsed(following, separator)
    while True:
        of_last = of_row.copy()
        of_row.clear()
        try:
            cells = next(parsed, None)
        except csv.Error as error:
            raise PermanentError(
                f"{name}, line {of_row[0].number}: a cell of more than {_MAX:,} characters: is a quotation mark not "
                "closed?"
            ) from error
        if cells is None:
            if separator != "\t" and _trouble(of_last, separator) == _OPEN:
                raise PermanentError(
                    f"{name} is cut off: it ends within the quotation marks of a cell, in the row of line "
                    f"{of_last[0].number}"
                )
            return
        first = of_row[0]
        if len(of_row) > 1 and _trouble(of_row, separator) not in (None, _OPEN):
            again.extendleft(reversed(of_row[1:]))
            parsed = _parsed(following, separator)
            yield first.number, [first.text], first.text
        else:
            yield first.number, cells, ""


def _trouble(lines: list[Line], separator: str) -> str | None:
    """Return what is wrong with the quotation marks of a row: `csv` says that only when it is strict."""
    # Spaces before a separator are no mistake.
    texts = (re.sub(rf'"[ \t]+(?=[{re.escape(separator)}\r\n]|\Z)', '"', line.text) for line in lines)
    try:
        list(csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        return str(error)
    return None

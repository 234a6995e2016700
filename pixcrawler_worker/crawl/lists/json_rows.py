"""JSON: an array of URLs or of objects, and JSON Lines."""

import json
import re
from collections.abc import Iterator

from pixcrawler_worker.crawl.lists.plain_text import Line
from pixcrawler_worker.crawl.lists.rows import Row
from pixcrawler_worker.errors import PermanentError

#: Characters of one value, and those that are read at a time.
_MAX, _BLOCK = 1 << 20, 1 << 16
_BETWEEN = re.compile(r"[\s,]*")
#: The column of an array whose values are the URLs themselves.
URL = "url"

_decoder = json.JSONDecoder()


def lines(lines: Iterator[Line], name: str) -> Iterator[Row]:
    """Yield the rows of JSON Lines. A line that is none is a mistake of its own.

    Raises:
        PermanentError: when a line is too long.
    """
    for line in lines:
        text = line.text.strip(" \t\r\n\ufeff\x00")
        if not text:
            continue
        if len(text) > _MAX:
            raise PermanentError(f"{name}, line {line.number}: a line of more than {_MAX:,} characters")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            yield Row(line.number, {}, text)
        else:
            yield _row(value, line.number, text)


def values(lines: Iterator[Line], name: str) -> Iterator[Row]:
    """Yield the rows of one array, or of objects that follow each other. A few of them are in memory at a time.

    The numbers of the rows are those of the lines that they begin in.

    Raises:
        PermanentError: when it is no JSON, or cut off; the message has the number of the line.
    """
    text, at, number = "", 0, 1
    inside = ended = False
    pending = iter(lines)
    while True:
        between = _BETWEEN.match(text, at)
        assert between is not None
        number += text.count("\n", at, between.end())
        at = between.end()
        if at < len(text) and text[at] == "[" and not inside:
            inside, at = True, at + 1
            continue
        if at < len(text) and text[at] == "]" and inside:
            return
        try:
            value, end = _decoder.raw_decode(text, at)
            if end == len(text) and not ended:
                raise ValueError("it may go on")  # noqa: TRY301 - the same as one that is not whole yet
        except RecursionError:
            raise PermanentError(f"{name}, line {number}: JSON that is nested too deeply") from None
        except ValueError:
            if ended and at >= len(text):
                if inside:
                    raise PermanentError(f"{name} is cut off: its array does not end (line {number})") from None
                return
            if ended or len(text) - at > _MAX:
                raise PermanentError(f"{name}, line {number}: expected JSON: a URL or an object") from None
            more, ended = _more(pending)
            text, at = text[at:] + more, 0
            continue
        yield _row(value, number, text[at:end][:200])
        number += text.count("\n", at, end)
        at = end


def _more(lines: Iterator[Line]) -> tuple[str, bool]:
    """Return the next characters, and whether they are the last."""
    taken: list[str] = []
    size = 0
    for line in lines:
        taken.append(line.text)
        size += len(line.text)
        if size >= _BLOCK:
            return "".join(taken), False
    return "".join(taken), True


def _row(value: object, number: int, text: str) -> Row:
    if isinstance(value, str):
        return Row(number, {URL: value})
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, text)

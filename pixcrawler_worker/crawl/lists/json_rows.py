"""JSON: an array of URLs or of objects, and JSON Lines."""

import json
import re
from collections.abc import Iterator
from itertools import chain

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists import json_objects
from pixcrawler_worker.crawl.lists.plain_text import Line
from pixcrawler_worker.crawl.lists.rows import Row
from pixcrawler_worker.errors import PermanentError

#: Characters of one value, and those that are read at a time.
_MAX, _BLOCK = 1 << 20, 1 << 16
#: What is between values; programs end files with `\x1a`, and RFC 7464 begins lines with `\x1e`.
_BETWEEN = re.compile(r"[\s,\x00\x1a\x1e\ufeff]*")
_AROUND = " \t\r\n\ufeff\x00\x1a\x1e"
#: The column of an array whose values are the URLs themselves.
URL = "url"

#: Digits of an integer that Python reads, besides its sign; it has a limit of 4,300.
_MAX_DIGITS = 4000
#: Values that may be cut off within.
_WORDS = ("true", "false", "null", "-Infinity", "NaN")
#: Characters of a text that a message quotes.
_QUOTED = 60


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


_decoder = json.JSONDecoder(parse_int=_integer)


def lines(lines: Iterator[Line], name: str) -> Iterator[Row]:
    """Yield the rows of JSON Lines. A line that is none is a mistake of its own.

    Raises:
        PermanentError: when a line is too long.
    """
    for line in lines:
        text = line.text.strip(_AROUND)
        if not text:
            continue
        if len(text) > _MAX:
            raise PermanentError(f"{name}, line {line.number}: a line of more than {_MAX:,} characters")
        try:
            value = _decoder.decode(text)
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
            _check_end(text[at + 1 :], pending, name, number)
            return
        try:
            value, end = _decoder.raw_decode(text, at)
            if end == len(text) and not ended:
                raise ValueError("it may go on")  # noqa: TRY301 - the same as one that is not whole yet
        except RecursionError:
            raise PermanentError(f"{name}, line {number}: JSON that is nested too deeply") from None
        except ValueError as error:
            if ended and at >= len(text) and not inside:
                return
            if ended or len(text) - at > _MAX:
                raise PermanentError(_unreadable(error, text, at, name, number)) from None
            more, ended = _more(pending)
            text, at = text[at:] + more, 0
            continue
        yield _row(value, number, text[at:end][:200])
        number += text.count("\n", at, end)
        at = end


def _check_end(rest: str, lines: Iterator[Line], name: str, number: int) -> None:
    """Check that nothing follows an array: what does would be lost.

    Raises:
        PermanentError: when something does; the message has the line that the array ends in.
    """
    for text in chain([rest], (line.text for line in lines)):
        if found := text.strip(_AROUND):
            raise PermanentError(
                f"{name}, line {number}: expected the end of the list after its array, got "
                f"{options.quoted(found[:_QUOTED])}: write one array, or an object per line"
            )


def _ends_within(error: ValueError, text: str) -> bool:
    """Return whether JSON is right as far as it goes."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    rest = text[error.pos :].rstrip()
    return error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in _WORDS)


def _unreadable(error: ValueError, text: str, at: int, name: str, number: int) -> str:
    """Return what to say of a value that cannot be read, with the place of the mistake in it."""
    expected = "expected JSON: a URL or an object"
    if at >= len(text):
        return f"{name} is cut off: its array does not end (line {number})"
    if len(text) - at > _MAX:
        found, last = json_objects.beginning(text[at:]) if text[at] == "{" else ({}, None)
        command = json_objects.advice(found, name, last)
        do = f": write one for each image, as {command} does" if command else ""
        return f"{name}, line {number}: {expected}, of at most {_MAX:,} characters{do}"
    if _ends_within(error, text):
        return f"{name} is cut off: it ends within a value (line {number})"
    if not isinstance(error, json.JSONDecodeError):
        return f"{name}, line {number}: {expected}"
    line = number + text.count("\n", at, error.pos)
    return f"{name}, line {line}: {expected}, got {options.quoted(text[error.pos :][:_QUOTED])}"


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

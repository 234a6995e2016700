"""Reading a table of synonyms: JSON or CSV.

In JSON it maps each keyword to its synonyms; in CSV a row has a keyword and its synonyms, with or without a header:

    {"cat": ["kitten", "Katze"], "dog": "Hund"}

    cat,kitten,Katze
    dog,Hund
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pixcrawler_worker.crawl.lists.text_encoding import encoding_of
from pixcrawler_worker.domain.stored_json import quoted
from pixcrawler_worker.errors import PermanentError

#: Bytes of a table: more than the searches of a job take.
_MAX_BYTES = 10 << 20
_SEPARATORS = "\t;|,"
#: How the columns of a header are called: the first one, and the beginning of the second one.
_KEYWORD = frozenset({"keyword", "keywords", "label", "class", "query"})
_SYNONYM = ("synonym", "translation", "variant", "alternative", "search", "quer")
#: A language as the name of a column: de, pt-BR.
_LANGUAGE = re.compile("[A-Za-z]{2}(?:[-_][A-Za-z]{2,4})?")
_EXPECTED = 'expected a keyword and its synonyms, as in cat,kitten,Katze or {"cat": ["kitten", "Katze"]}'


def read(file: BinaryIO, name: str) -> dict[str, list[str]]:
    """Return the synonyms of each keyword, in their order. A keyword may have several rows.

    Args:
        file: the table, in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.
        name: of it, for messages.

    Raises:
        PermanentError: when it is something else, or empty; the message says where, and what is expected.
    """
    text = _text(file.read(_MAX_BYTES + 1), name)
    pairs = _json(text, name) if text.lstrip().startswith(("{", "[")) else _separated(text, name)
    found: dict[str, list[str]] = {}
    for keyword, synonyms in pairs:
        found.setdefault(keyword, []).extend(synonyms)
    if not found:
        raise PermanentError(f"{name} has no synonyms: {_EXPECTED}")
    return found


def _text(content: bytes, name: str) -> str:
    if len(content) > _MAX_BYTES:
        raise PermanentError(f"{name} has more than {_MAX_BYTES >> 20} MiB: {_EXPECTED}")
    try:
        return content.decode(encoding_of(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PermanentError(
            f"{name} is not a text in UTF-8: byte {error.start} is another: save it as UTF-8"
        ) from error


def _json(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    try:
        # All pairs, those with the same keyword, too.
        table = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise PermanentError(f"{name}, line {error.lineno}: {error.msg}: {_EXPECTED}") from error
    except (RecursionError, ValueError) as error:
        raise PermanentError(f"{name}: {_EXPECTED}") from error
    if not isinstance(table, _Pairs):
        raise PermanentError(f"{name}: {_EXPECTED}, got an array")
    for keyword, synonyms in table:
        listed = [synonyms] if isinstance(synonyms, str) else synonyms
        if isinstance(listed, _Pairs) or not isinstance(listed, list):
            raise PermanentError(f"{name}: the synonyms of {quoted(keyword)} must be an array of strings")
        for synonym in listed:
            if not isinstance(synonym, str):
                raise PermanentError(f"{name}: the synonyms of {quoted(keyword)} must be strings")
        yield keyword, listed


class _Pairs(list[tuple[str, object]]):
    """An object of JSON."""


def _separated(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    # Of a text, `splitlines` divides cells with a form feed or a line separator as well.
    lines = [line for line in io.StringIO(text, newline="") if line.strip() and not line.startswith("#")]
    separator = max(_SEPARATORS, key=lines[0].count) if lines else ","
    is_first = True
    for number, row in _rows(io.StringIO(text, newline=""), separator, name):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        keyword, *others = cells
        synonyms = [cell for cell in others if cell]
        is_header = is_first and _is_header(keyword, others)
        is_first = False
        if is_header:
            continue
        if not keyword or not synonyms:
            raise PermanentError(f"{name}, line {number}: {_EXPECTED}, got {quoted(separator.join(row).strip())}")
        yield keyword, synonyms


def _is_header(first: str, others: list[str]) -> bool:
    if first.casefold() not in _KEYWORD or not others:
        return False
    return _is_title(others[0]) or all(_LANGUAGE.fullmatch(one) for one in others)


def _is_title(cell: str) -> bool:
    return cell.casefold().startswith(_SYNONYM)


def _rows(lines: Iterable[str], separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise PermanentError(f"{name}, line {reader.line_num}: {error}: {_EXPECTED}") from error
        if row is None:
            return
        yield reader.line_num, row

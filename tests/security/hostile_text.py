"""Texts that attack what people open files with, and what must not be in any file."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator

import pyte
from hypothesis import strategies as st

#: Texts as a row of PostgreSQL can have them: it has no NUL, and no half of a surrogate pair.
TEXTS = (
    "=cmd|' /C calc'!A0",
    "ok;=cmd|' /C calc'!A0",
    'ok";=1+1;"@SUM(1)";',
    "ok\t=1+1\n=2+2\r\n+3\r-4",
    '  "-1+1";  "+1',
    "\uff1d1;\uff0b1;\uff0d1;\uff20a",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x1b]8;;https://evil.example\x07link",
    "\x9b2J\x9d0;owned\x9c\x90q\x9c\x7f\x08\x08\x0e\x85",
    "photo\u202egpj.exe\u2066\u2067\u2068\u2069\u202a\u202b\u202c\u202d\u200e\u200f\u061c",
    "a\u2028b\u2029c\ufeff\u200b\u2060\xad\U000e0041\U000e007f\ufff9\ufffb",
    "\ufffe\uffff\ufdd0\U0001fffe\U0010ffff",
    'x: y\n---\n- !!python/object/apply:os.system ["id"]\n...\n# &a *a {a: [b',
    "'\"\\`*_{}[]<>()#+!|~&]]>%00",
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><!--",
    "y" * 20_000,
    "\u202e" * 300 + "\x1b[A" * 300,
    ";",
    "'",
    "-5",
)
#: Texts that have to stay readable.
READABLE = ("می\u200cخواهم", "👩🏽\u200d💻 ❤\ufe0f\u200d🔥", "क्\u200dष", "שלום עולם", "Grüße; bis bald", "日本語")  # noqa: RUF001

_PIECES = st.sampled_from(
    [
        *"\t\n\r \"';,=+-@:#&*!|<>{}[]%\\`~-a1é日",
        *("\x1b", "\x1b[2J", "\x07", "\x7f", "\x80", "\x85", "\x9b", "\u202e", "\u2066", "\u200d", "\u200c", "\ufeff"),
        *("\u2028", "\ufe0f", "\uff1d", "---", "...", "!!python/name:os.system ", "x" * 300),
    ]
)
ANY_TEXT = st.one_of(
    st.sampled_from(TEXTS),
    st.lists(_PIECES, max_size=15).map("".join),
    st.text(st.characters(exclude_categories=()), max_size=30),
)

_INVISIBLE = re.compile(
    "[\u200b\u200e\u200f\u061c\u2028-\u202e\u2060-\u206f\ufeff\xad\ufff0-\ufffb\U000e0000-\U000e00ff\ufdd0-\ufdef\ufffe\uffff]"
)
_FORMULA = re.compile('[\\s"\u2018-\u201f]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[ "]*[\t\r\n]')
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def unsafe_in(text: str, *, allowed: str = "") -> list[str]:
    """Return the characters of a text that no file may have."""
    return [
        one
        for one in sorted(set(text))
        if one not in allowed
        and (
            unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"}
            or _INVISIBLE.match(one)
            or ord(one) & 0xFFFE == 0xFFFE
        )
    ]


def texts_in(value: object) -> Iterator[str]:
    """Yield all texts in a value of JSON or YAML, the names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from texts_in(name)
            yield from texts_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_in(one)


def formulas_in(table: str) -> list[tuple[str, str]]:
    """Return the cells of a CSV file that a spreadsheet would evaluate, by the separator that it divides lines by."""
    return [
        (delimiter, cell)
        for delimiter in ",;\t"
        for line in csv.reader(io.StringIO(table, newline=""), delimiter=delimiter)
        for cell in line
        if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    ]


def changes_of_a_terminal(text: str) -> list[str]:
    """Return what a text does to a terminal besides being printed."""
    screen = pyte.HistoryScreen(100, 24, history=10_000)
    done: list[str] = []
    stream = pyte.Stream(screen)
    before = (set(screen.mode), screen.cursor.attrs)
    stream.feed("first\r\n")
    stream.feed(text.replace("\n", "\r\n"))
    if screen.title or screen.icon_name:
        done.append("title")
    if (set(screen.mode), screen.cursor.attrs) != before:
        done.append("modes")
    lines = [*("".join(line[column].data for column in range(100)) for line in screen.history.top), *screen.display]
    if not lines[0].startswith("first"):
        done.append("cleared or overwritten")
    return done

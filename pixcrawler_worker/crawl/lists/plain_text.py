"""Lists with one URL per line, in any encoding of Unicode and with any line ends; and which format a list has.

`failed.jsonl` of an earlier job, and what `pixcrawler jobs failures --format jsonl` prints, are read as lists, too.

A file in a format that is not read (HTML, Markdown, an image, ...) would give an invalid URL for each line. It is
rejected as a whole, by what it looks like, with the line that shows it.
"""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain, islice
from typing import BinaryIO, NamedTuple

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists.text_encoding import encoding_of
from pixcrawler_worker.domain import tables
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection import sniffing

#: Bytes that are read at a time, and characters of a line: eight times what a URL may have.
_BLOCK, _MAX_LINE = 1 << 16, 1 << 16
#: Characters of a line of a table, and of the name of a column: what is longer is a sentence with commas.
_MAX_ROW, _MAX_NAME = 1 << 20, 64
#: Lines with content from which it is concluded whether a list of URLs is meant.
_SAMPLE = 100

# --- one URL ---

#: Characters around a URL that are invisible: all spaces, byte order marks, zero-width spaces, the end of a DOS file.
_AROUND = (
    " \t\n\v\f\r\x1a\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
#: A URL in brackets or quotation marks (RFC 3986, appendix C), with the comma of a list behind it.
_DELIMITED = re.compile(r"[<\"'`\u201c\u2018]\s*(https?://[^<>\"`\s]*)\s*[>\"'`\u201d\u2019][\s,]*", re.IGNORECASE)
_ESCAPED = re.compile("&(?:amp;)+")
_URL = re.compile("https?://", re.IGNORECASE)
#: A URL of characters that neither lists nor tables have around a URL: most lines, which take no other checks.
_PLAIN = re.compile(r"https?://[\w\-.~:/?#@!$&()*+=%\[\]{}]+", re.ASCII)


def trimmed(text: str) -> str:
    """Return a URL without what lists have around it: spaces, byte order marks, quotation marks, brackets, a comma.

    An `&` that was escaped for HTML is an `&`, and an apostrophe that a table has after a `;` is removed. A text that
    is no URL keeps all but the spaces.
    """
    text = text.replace("\x00", "").strip(_AROUND)
    if found := _DELIMITED.fullmatch(text):
        text = found[1]
    if not _URL.match(text):
        return text
    text = text.rstrip(f",{_AROUND}")
    if ";'" in text:
        # From a table of this service.
        text = tables.text_of(text)
    return _ESCAPED.sub("&", text) if "&amp;" in text else text


def is_url(text: str) -> bool:
    """Return whether a text begins as a URL that can be requested."""
    return _URL.match(text) is not None


# --- a list ---


class Line(NamedTuple):
    """A line of a list.

    Attributes:
        number: from 1.
        text: its content.
    """

    number: int
    text: str


def read(file: BinaryIO, name: str) -> Iterator[Line]:
    """Yield the URLs of a list: one per line, without blank lines and comments, which begin with `#`, `;` or `// `.

    Lines that are no URLs, among many that are, are yielded too: each is the trouble of its own candidate.

    Args:
        file: the list. A block at a time is in memory.
        name: of the list, for messages.

    Raises:
        PermanentError: when the file is in another format or has no URLs; the message says what it looks like.
    """
    head = file.read(_BLOCK)
    if kind := _binary_kind(head):
        raise _rejected(name, 1, kind)
    lines = _contents(_lines(_blocks(head, file), encoding_of(head)))
    sample = list(islice(lines, _SAMPLE))
    if not sample:
        raise PermanentError(f"{name} contains no URLs: expected one per line")
    if _failed_url(sample[0].text) is not None:
        yield from _failed_urls(chain(sample, lines), name)
        return
    _check_sample(name, head, sample)
    for line in chain(sample, lines):
        if is_plain(line.text):
            yield line
            continue
        if kind := _kind(line.text, head):
            raise _rejected(name, line.number, kind, line.text)
        yield Line(line.number, trimmed(line.text))


#: Keys that a line of `failed.jsonl` has, and other JSON has not.
_FAILED = {"url", "reason", "retriable", "attempts"}


def _failed_urls(lines: Iterator[Line], name: str) -> Iterator[Line]:
    """Yield the URLs of `failed.jsonl`; those that a job did not keep are left out."""
    for line in lines:
        url = _failed_url(line.text)
        if url is None:
            raise PermanentError(
                f"{name}, line {line.number}: expected a line of failed.jsonl, got {options.quoted(line.text)}"
            )
        if url:
            yield Line(line.number, trimmed(url))


def _failed_url(text: str) -> str | None:
    """Return the URL in a line of `failed.jsonl`, empty when it was not kept; None for any other line."""
    if not text.startswith("{"):
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not row.keys() >= _FAILED or not isinstance(row["url"], str | None):
        return None
    return row["url"] or ""


class Structure(Enum):
    """How the rows of a list are written that is a table."""

    SEPARATED = auto()
    JSON = auto()
    JSON_LINES = auto()


def structure(head: bytes) -> Structure | None:
    """Return how the rows of a table are written; None for a list with a URL per line, and for what is no list.

    Args:
        head: the first bytes of the file.
    """
    if _binary_kind(head) is not None:
        return None
    sample = list(islice(_contents(_lines(iter([head]), encoding_of(head))), _SAMPLE))
    if not sample:
        return None
    first = sample[0].text
    objects = [line.text for line in sample if line.text[0] == "{"]
    # By half of them: the first one may be broken.
    if first[0] != "[" and objects and 2 * sum(map(_is_json, objects)) >= len(sample):
        return Structure.JSON_LINES
    if first[0] == "{":
        return Structure.JSON
    if re.match(r"\[\s*(?:[\"{\[\]0-9-]|(?:null|true|false)\b|\Z)", first):
        return Structure.JSON
    # Of a row that begins with its URL, the caption may be longer than any line of a list of URLs.
    short = [line.text[:_MAX_LINE] if is_url(trimmed(line.text[:_MAX_LINE])) else line.text for line in sample]
    kind = _header_kind(sample) or _kind(short[0], head)
    if kind is None:
        likely = [_kind(text, head) or _likely_kind(text) for text in short]
        kind = _CSV if 2 * (likely.count(_CSV) + likely.count(_TSV)) > len(sample) else None
    return Structure.SEPARATED if kind in (_CSV, _TSV) else None


def lines(file: BinaryIO, head: bytes) -> Iterator[Line]:
    """Yield all lines with their ends; one that is longer than a megabyte in pieces, the first of which is longer.

    Args:
        file: from its start.
        head: its first bytes, by which the encoding is found.
    """
    encoding = encoding_of(head)
    decoded = io.TextIOWrapper(file, encoding, "surrogateescape" if encoding == "utf-8" else "replace", newline="")
    number = 1
    while text := decoded.readline(_MAX_ROW + 1):
        yield Line(number, text.removeprefix("\ufeff") if number == 1 else text)
        number += text.endswith(("\n", "\r"))


def escaped(text: str) -> str:
    """Return a URL in which bytes of another encoding are sent as they are."""
    return _UNDECODED.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def decoded(text: str) -> str:
    """Return a text in which bytes of another encoding are read as Windows-1252, or else as ISO 8859-1."""
    return _UNDECODED.sub(lambda found: _character(ord(found[0]) - 0xDC00), text)


def _character(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


def is_comment(text: str) -> bool:
    """Return whether a line that is not blank is a comment."""
    return re.match(r"[#;]|//(?:\s|\Z)", text) is not None


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a file looks like.

    Attributes:
        name: with its article, as in `this looks like ...`.
        advice: what to do.
    """

    name: str
    advice: str


_WRITE = "write its URLs to a text file, one per line"
_PAGE = f"get the file instead of the page that shows it, or {_WRITE}"
_COLUMN = f"remove the lines before the table, or {_WRITE}"
_CSV, _TSV = _Kind("CSV", _COLUMN), _Kind("TSV, a table with tabs", _COLUMN)
_JSON = _Kind("JSON", _WRITE)
_JSON_LINES = _Kind("JSON Lines", _WRITE)
_MARKDOWN = _Kind("Markdown", _WRITE)
_LIST_ITEMS = _Kind("a list with a mark before each URL", "remove the marks")
_SEVERAL = _Kind("several URLs in one line", "write each on a line of its own")
_PROSE = _Kind("text with URLs in it", _WRITE)
_AFTER = _Kind("a URL with text after it", _WRITE)
_POINTER = _Kind("a pointer of Git LFS", "get the file itself with git lfs pull")
_BINARY = _Kind("binary data", _WRITE)
_NO_SCHEME = _Kind("a URL without https:// or http://", "write the whole URL")
_OTHER_SCHEME = _Kind("a URL that is neither https nor http", "give URLs that begin with https:// or http://")
_TEXT = _Kind("text without URLs", "write URLs that begin with https:// or http://")


def _rejected(name: str, number: int, kind: _Kind, text: str | None = None) -> PermanentError:
    shown = "" if text is None or kind is _BINARY else f" ({options.quoted(text)})"
    return PermanentError(
        f"{name}, line {number}: expected one URL per line, but this looks like {kind.name}{shown}: {kind.advice}"
    )


# --- bytes ---

#: Files of data, of which text is not to be expected, and the images that a crawl accepts.
_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"PARE", "an encrypted Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x04\x22\x4d\x18", "LZ4 data"),
    (b"\x1f\x9d", "data of compress (.Z)"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
)
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image"}
_PACKED = ("gzip", "bzip2", "xz", "Zstandard", "LZ4", "compress", "ZIP", "RAR", "7z", "tar")
#: Names of `sniffing` for what may be text, and is looked at line by line.
_MAYBE_TEXT = (
    "text",
    "JSON",
    "markup",
    "an HTML page",
    "an XML document",
    "an SVG drawing",
    "a file of no known format",
)


def _binary_kind(head: bytes) -> _Kind | None:
    """Return what a file looks like whose first bytes are not those of text."""
    name = next((name for mark, name in _MAGIC if head.startswith(mark)), None)
    if name is None and head[4:8] == b"ftyp":
        name = _BRANDS.get(head[8:12])
    if name is None and head[8:12] == b"WEBP":
        name = "a WebP image"
    if name is None and head[:2] == b"BM" and b"\0" in head[:16]:
        name = "a BMP image"
    if name is None and head[257:262] == b"ustar":
        name = "a tar archive"
    if name is None and encoding_of(head) == "utf-8":
        name = sniffing.name(head)
    if name is None or name in _MAYBE_TEXT:
        return None
    if any(word in name for word in _PACKED):
        name += " or a spreadsheet" if "ZIP" in name else ""
        return _Kind(name, "unpack it, and give the list of URLs that is in it")
    return _Kind(name, _WRITE)


def _blocks(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    while head:
        yield head
        head = file.read(_BLOCK)


# --- lines ---

#: Bytes of another encoding, as the error handler `surrogateescape` decodes them.
_UNDECODED = re.compile("[\udc80-\udcff]")


def _lines(blocks: Iterator[bytes], encoding: str) -> Iterator[Line]:
    """Yield the lines that are not empty, with their numbers; of a line that is too long, what fits, as the last."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "replace")
    number, rest = 1, ""
    for block in blocks:
        # The last line may go on in the next block, and CR LF may be divided between them.
        *lines, rest = (rest + decoder.decode(block)).splitlines(keepends=True) or [""]
        for line in lines:
            if text := line.rstrip("\r\n"):
                yield Line(number, text)
            number += 1
        if len(rest) > _MAX_LINE:
            break
    yield Line(number, rest)


def _contents(lines: Iterator[Line]) -> Iterator[Line]:
    """Yield the lines that are neither blank nor comments, without spaces around them."""
    for line in lines:
        if len(line.text) > _MAX_LINE or is_plain(line.text):
            yield line
            continue
        text = escaped(line.text).replace("\x00", "").strip(_AROUND)
        if text and not is_comment(text):
            yield Line(line.number, text)


#: Characters that no text has. Zero bytes are ignored, and spaces are none of them.
_CONTROLS = re.compile(r"[\x01-\x08\x0e-\x1b\x7f]")
#: Between URLs in a line: `https://web.archive.org/web/2020/https://...` is one URL.
_NEXT_URL = re.compile(r"[\s,;|][\"'<]?https?://", re.IGNORECASE)
_URL_INSIDE = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(?:data|mailto|javascript|file|magnet|blob):", re.IGNORECASE)
#: The end of the path of an image file.
IMAGE_PATH = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif|heic|heif|jxl|svg|ico)\Z", re.IGNORECASE)
#: A column of URLs, and the next column.
_ROW = re.compile(r"(https?://[^\s,;|]+)([,;|])(.+)", re.IGNORECASE)
_WORDS = re.compile(r"[\w .,'\"-]+")
#: The URL of an image, and words.
_FOLLOWED = re.compile(r"https?://[^\s?]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif)(?:\?\S*)?\s+\w.*", re.IGNORECASE)


def _check_sample(name: str, head: bytes, sample: list[Line]) -> None:
    """Check that the first lines are those of a list of URLs.

    Raises:
        PermanentError: when one of them is in another format, or most of them probably are.
    """
    first = sample[0]
    if kind := _header_kind(sample):
        raise _rejected(name, first.number, kind, first.text)
    for line in sample:
        if kind := _kind(line.text, head):
            raise _rejected(name, line.number, kind, line.text)
    found = [(line, kind) for line in sample if (kind := _likely_kind(line.text))]
    if 2 * len(found) > len(sample):
        (usual, _), *_ = Counter(kind for _, kind in found).most_common(1)
        line = next(line for line, kind in found if kind == usual)
        raise _rejected(name, line.number, usual, line.text)


def _header_kind(sample: list[Line]) -> _Kind | None:
    """Return the kind of table whose header the first line is."""
    first = sample[0].text
    if _URL_INSIDE.search(first) or first[0] in "{[<" or _CONTROLS.search(first):
        return None
    if "\t" in first:
        return _TSV
    if (separator := re.search("[,;|]", first)) and all(len(name) <= _MAX_NAME for name in re.split("[,;|]", first)):
        # A path is the beginning of no table, but `width/height` may be the name of a column.
        in_rows = (separator[0] in line.text and _URL_INSIDE.search(line.text) for line in sample[1:])
        if "/" not in first or any(in_rows):
            return _CSV
    # A table of one column.
    if re.fullmatch(r"[\"']?[A-Za-z][\w -]*[\"']?", first) and len(sample) > 1 and _URL.match(trimmed(sample[1].text)):
        return _CSV
    return None


def is_plain(text: str) -> bool:
    """Return whether this is a URL and has nothing around it that would have to be removed."""
    return _PLAIN.fullmatch(text) is not None and "&amp;" not in text


def _kind(text: str, head: bytes) -> _Kind | None:
    """Return the other format that a line certainly has; None for a URL, and for a line that may be a mistake."""
    if _CONTROLS.search(text):
        return _BINARY
    url = trimmed(text)
    if len(text) > _MAX_LINE:
        long = _Kind(f"a line of more than {_MAX_LINE:,} characters", _WRITE)
        return long if _URL.match(url) else _marked_kind(text, head) or long
    if _URL.match(url):
        if "\t" in url:
            return _TSV
        return _SEVERAL if _NEXT_URL.search(url) else None
    return _marked_kind(text, head)


def _marked_kind(text: str, head: bytes) -> _Kind | None:
    """Return the other format of a line that is no URL, by its marks."""
    if text[0] == "<":
        name = sniffing.name(text.encode(errors="replace"))
        is_page = name in {"markup", "an HTML page"}
        return _Kind("HTML", _PAGE) if is_page else _Kind(name, _WRITE)
    if text[0] == "{":
        return _JSON_LINES if _is_json(text) and head.strip().count(b"\n") else _JSON
    if re.search(r"\]\(\s*<?https?://", text, re.IGNORECASE):
        return _MARKDOWN
    if text[0] == "[":
        return _Kind("settings (INI)", _WRITE) if re.fullmatch(r"\[[A-Za-z][\w .-]*\]", text) else _JSON
    if text.startswith("version https://git-lfs"):
        return _POINTER
    found = _URL_INSIDE.search(text)
    return None if found is None else _kind_around(text, text[: found.start()])


def _kind_around(text: str, before: str) -> _Kind:
    """Return the other format of a line that has a URL, by what is before the URL."""
    if re.search(r"<\w+\s|\b(?:src|href)\s*=", before, re.IGNORECASE):
        return _Kind("HTML", _WRITE)
    if "\t" in text:
        return _TSV
    if re.search(r"[,;|]\s*[\"']?\Z", before) or before in {'"', "'"}:
        return _CSV
    return _LIST_ITEMS if re.fullmatch(r"(?:[-*+\u2022]|\(?\d+[.):]?)\s+[<\"']?", before) else _PROSE


def _likely_kind(text: str) -> _Kind | None:
    """Return the other format that a line may have: it counts if most lines have it."""
    url = trimmed(text)
    if _URL.match(url):
        if _is_row(url):
            return _CSV
        return _AFTER if _FOLLOWED.fullmatch(url) and not IMAGE_PATH.search(url) else None
    if _SCHEME.match(text):
        return _OTHER_SCHEME
    return _NO_SCHEME if re.match(r"//\S|[\w-]+(?:\.[\w-]+)+(?::\d+)?(?:/|\Z)|[\w.-]+:\d+/", text) else _TEXT


def _is_row(url: str) -> bool:
    """Return whether this is rather a URL and other columns than a URL with commas in it, which images often have."""
    found = _ROW.fullmatch(url)
    if found is None:
        return False
    path, query, _ = found[1].partition("?")
    is_image, rest = bool(IMAGE_PATH.search(path)), found[3]
    is_caption = re.search(r"\w\s+\w", rest) is not None
    if rest[0] == '"' or (found[2] == "|" and not query and "/" not in rest):
        # No part of a URL.
        return True
    if is_image and is_caption:
        return True
    if is_image and not query:
        return _WORDS.fullmatch(rest) is not None and not IMAGE_PATH.search(rest)
    return is_caption and not rest[0].isspace() and "/" not in rest and not IMAGE_PATH.search(rest)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True

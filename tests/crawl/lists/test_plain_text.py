"""URL lists: what is read, and what files of other formats are rejected as."""

import bz2
import io
import json
import lzma
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import feather, orc

from pixcrawler_worker.crawl.lists import plain_text, reading
from pixcrawler_worker.errors import PermanentError

URLS = [f"http://a.example/i/{number}.jpg?L" for number in range(3)]
PLAIN = "\n".join(URLS)


def read(content: bytes, name: str = "list.txt") -> list[str]:
    return [row.url for row in reading.read(io.BytesIO(content), name)]


def message_of(content: bytes, name: str = "list.txt") -> str:
    with pytest.raises(PermanentError) as raised:
        read(content, name)
    return str(raised.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029", "\n\n", "\r\n \r\n"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
    ],
)
def test_every_encoding_of_unicode_and_every_line_end_is_read(mark: bytes, encoding: str, end: str) -> None:
    assert read(mark + end.join(URLS).encode(encoding)) == URLS
    assert read(mark + (end.join(["# cats", *URLS, "http://a.example/ü"]) + end).encode(encoding)) == [
        *URLS,
        "http://a.example/ü",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"# no\n\n  \n\t# no\nhttps://a.example/#yes\n", ["https://a.example/#yes"]),
        (b"; no\n// no\n//\nhttps://a.example/1;a=b//c\n", ["https://a.example/1;a=b//c"]),
        (b"\xef\xbb\xbf# no\nhttps://a.example/1\n", ["https://a.example/1"]),
        (b"\x00\nhttps://a.example/\x001\n \x00 \n", ["https://a.example/1"]),
        (b"\x00 https://a.example/1\n\x00# no\n", ["https://a.example/1"]),
        (b"https://a.example/1\n\x1a", ["https://a.example/1"]),
        # A byte of another encoding is sent as it is.
        (b"https://a.example/pe\xf1a\n", ["https://a.example/pe%F1a"]),
        ("https://a.example/ü\u2028\n".encode(), ["https://a.example/ü"]),
        (b"HTTP://a.example/1", ["HTTP://a.example/1"]),
        (b"<https://a.example/1>\n< https://a.example/2 >\n", ["https://a.example/1", "https://a.example/2"]),
        (b"\"https://a.example/1\"\n'https://a.example/2',\n", ["https://a.example/1", "https://a.example/2"]),
        (
            "\u201chttps://a.example/1\u201d\n\xa0https://a.example/2\u3000".encode(),
            ["https://a.example/1", "https://a.example/2"],
        ),
        (b"https://a.example/1,\nhttps://a.example/2 , \n", ["https://a.example/1", "https://a.example/2"]),
        (b"https://a.example/?a=1&amp;b=2&c=3&amp;amp;d=4", ["https://a.example/?a=1&b=2&c=3&d=4"]),
    ],
)
def test_what_is_around_a_url_is_ignored(text: bytes, found: list[str]) -> None:
    assert read(text) == found


#: URLs that have the marks of other formats in them.
ODD = [
    "https://a.example/Paris, France at night.jpg",
    "https://a.example/a b.jpg",
    "https://iiif.example/iiif/2/a.jpg/0,0,500,500/full/0/default.jpg",
    "https://res.example/image/upload/w_300,h_200,c_fill/sample.jpg",
    "https://img.example/photo.jpg?im=Resize,width=500",
    "https://img.example/photo.jpg;maxHeight=60;maxWidth=1000",
    "https://img.example/?rect=0,0,50,50",
    "https://fonts.example/i.png?family=A|B",
    "https://web.archive.org/web/2020/https://a.example/1.jpg",
    "https://proxy.example/?url=http://a.example/1.jpg",
    "https://a.example/{id}/[1].jpg",
    "https://a.example/it's.jpg",
    "https://[2606:4700::1111]/1.jpg",
    "https://user:word@a.example:8443/1.jpg#x",
    "https://bücher.example/ß.jpg",
]


@pytest.mark.parametrize("url", ODD)
def test_a_url_with_the_marks_of_other_formats_is_read(url: str) -> None:
    assert read(f"{url}\n".encode()) == [url]
    assert read(f"{url}\n{url}\n{url}".encode()) == [url] * 3


def test_a_list_of_odd_urls_is_read() -> None:
    assert read("\n".join(ODD).encode()) == ODD


@pytest.mark.parametrize("mistake", ["not a url", "a.example/4.jpg", "ftp://a.example/4.jpg", "//a.example/4.jpg"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_single_mistake_is_left_to_its_candidate(mistake: str, at: int) -> None:
    listed = [*URLS[:at], mistake, *URLS[at:]]
    # As the first line, it may be the header of a table.
    expected = URLS if mistake == "not a url" and at == 0 else listed
    assert read("\n".join(listed).encode()) == expected


def table(separator: str, *rows: tuple[str, ...]) -> bytes:
    return "\n".join(separator.join(row) for row in rows).encode()


def short(value: object) -> str:
    """Return an identifier for a test; the content of a list may be long."""
    return repr(value)[:40]


CAPTIONS = [(url, "a red cat") for url in URLS]


@pytest.mark.parametrize(
    ("content", "kind", "line"),
    [
        (PLAIN.encode() + b"\n" + table("\t", *CAPTIONS), "TSV", 4),
        ("\n".join(f'<img src="{url}">' for url in URLS).encode(), "HTML", 1),
        ("\n".join(f'<a href="{url}">cat</a>' for url in URLS).encode(), "HTML", 1),
        (f"<!doctype html>\n<title>404</title>\n{PLAIN}".encode(), "HTML", 1),
        (f"<html><body>{PLAIN}</body></html>".encode(), "HTML", 1),
        (f"<?xml version='1.0'?>\n<urlset>{PLAIN}</urlset>".encode(), "an XML document", 1),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "an SVG drawing", 1),
        ("\n".join(f"- [cat]({url})" for url in URLS).encode(), "Markdown", 1),
        ("\n".join(f"![cat]({url})" for url in URLS).encode(), "Markdown", 1),
        (("# Cats\n\n" + "\n".join(f"[cat]({url})" for url in URLS)).encode(), "Markdown", 3),
        ("\n".join(f"- {url}" for url in URLS).encode(), "a list with a mark before each URL", 1),
        ("\n".join(f"{at}. {url}" for at, url in enumerate(URLS)).encode(), "a list with a mark before each URL", 1),
        ("\n".join(f"url: {url}" for url in URLS).encode(), "text with URLs in it", 1),
        ("\n".join(f"wget {url}" for url in URLS).encode(), "text with URLs in it", 1),
        (f"[InternetShortcut]\nURL={URLS[0]}".encode(), "settings (INI)", 1),
        (" ".join(URLS).encode(), "several URLs in one line", 1),
        (",".join(URLS).encode(), "several URLs in one line", 1),
        (", ".join(URLS).encode(), "several URLs in one line", 1),
        ("\n".join([PLAIN, "|".join(URLS)]).encode(), "several URLs in one line", 4),
        ("\n".join(f"{url} a red cat" for url in URLS).encode(), "a URL with text after it", 1),
        ("\n".join(url.removeprefix("http://") for url in URLS).encode(), "a URL without https:// or http://", 1),
        ("\n".join(url.removeprefix("http:") for url in URLS).encode(), "a URL without https:// or http://", 1),
        (b"127.0.0.1:8080/1.jpg", "a URL without https:// or http://", 1),
        (b"localhost:8080/1.jpg\n", "a URL without https:// or http://", 1),
        (b"s3://bucket/1.jpg\ns3://bucket/2.jpg\n", "a URL that is neither https nor http", 1),
        (b"data:image/png;base64,AAAA", "a URL that is neither https nor http", 1),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "a pointer of Git LFS", 1),
        (b"not a url\n", "text without URLs", 1),
        (b"cat\ndog\n", "text without URLs", 1),
        (
            b"# Cats\n\nImages of cats that were taken in the gardens of the neighborhood, with\ndates\n",
            "text without",
            3,
        ),
        (PLAIN.encode() + b"\ncat" * 6, "text without URLs", 4),
        (bytes(range(256)) * 40, "binary data", 1),
        (PLAIN.encode() + b"\nab\x01\x02", "binary data", 4),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document", 1),
        (b"{\\rtf1\\ansi " + PLAIN.encode() + b"}", "an RTF document", 1),
        (bz2.compress(PLAIN.encode()), "bzip2 data", 1),
        (lzma.compress(PLAIN.encode()), "xz data", 1),
        (b"https://a.example/" + b"a" * 100_000, "a line of more than 65,536 characters", 1),
        (b"#" + b"a" * 100_000 + b"\n" + PLAIN.encode(), "a line of more than 65,536 characters", 1),
        (PLAIN.encode() + b"\n" + b" " * 200_000, "a line of more than 65,536 characters", 4),
    ],
    ids=short,
)
def test_another_format_is_rejected_by_name_with_the_line_and_what_to_do(content: bytes, kind: str, line: int) -> None:
    message = message_of(content)
    start = f"list.txt, line {line}: expected one URL per line, but this looks like {kind}"
    assert message.startswith(start)
    assert message[len(start)] in ":,( " or kind in message
    assert message.rpartition(": ")[2]
    assert len(message) < 300
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_another_format_is_recognized_in_every_encoding(encoding: str) -> None:
    assert "looks like Markdown" in message_of(f"[cat]({URLS[0]})".encode(encoding))
    assert "looks like HTML" in message_of(f"<img src={URLS[0]}>".encode(encoding))


def _saved(kind: str) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (8, 8)).save(path, kind)


def _database(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE urls (url text)").connection.commit()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("list.txt", PLAIN)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as packed:
        packed.addfile(tarfile.TarInfo("list.txt"))


TABLE = pa.table({"URL": URLS, "TEXT": ["a"] * 3})


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: feather.write_feather(TABLE, path), "an Arrow file"),
        (lambda path: orc.write_table(TABLE, path), "an ORC file"),
        (_database, "an SQLite database"),
        (_zip, "a ZIP archive or a spreadsheet"),
        (_tar, "a tar archive"),
        (_saved("JPEG"), "a JPEG image"),
        (_saved("PNG"), "a PNG image"),
        (_saved("GIF"), "a GIF image"),
        (_saved("WEBP"), "a WebP image"),
        (_saved("BMP"), "a BMP image"),
        (_saved("TIFF"), "a TIFF image"),
        (_saved("AVIF"), "an AVIF image"),
        (_saved("ICO"), "an icon (ICO)"),
    ],
)
def test_a_file_of_data_is_rejected_by_name(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    write(tmp_path / "list.txt")
    message = message_of((tmp_path / "list.txt").read_bytes())
    assert message.startswith(f"list.txt, line 1: expected one URL per line, but this looks like {name}: ")


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n  \n", b"# only\r\n", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_a_list_without_urls_is_rejected_by_name(text: bytes) -> None:
    assert message_of(text) == "list.txt contains no URLs: expected one per line"


class Endless(io.RawIOBase):
    """A file without an end that counts what is read of it."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self.taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        assert 0 < size <= 1 << 20
        start = self.taken % len(self._pattern)
        self.taken += size
        return (self._pattern * (size // len(self._pattern) + 2))[start : start + size]


@pytest.mark.parametrize("pattern", [b"a", b'{"http://a.example/1",', b"http://a.example/1,", b"[[[", b" ", b"#"])
def test_a_file_of_another_format_is_not_read_to_its_end(pattern: bytes) -> None:
    file = Endless(pattern)
    opened: BinaryIO = file  # type: ignore[assignment]  # what it has of a file suffices
    with pytest.raises(PermanentError):
        list(reading.read(opened, "endless.txt"))
    assert file.taken <= 1 << 21


def test_urls_are_read_while_the_list_goes_on() -> None:
    file = Endless(b"http://a.example/1\n")
    opened: BinaryIO = file  # type: ignore[assignment]  # what it has of a file suffices
    read_so_far = reading.read(opened, "endless.txt")
    assert {next(read_so_far).url for _ in range(10_000)} == {"http://a.example/1"}
    assert file.taken <= 1 << 19


@given(st.lists(st.sampled_from(URLS + ODD), min_size=1), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 200))
def test_blocks_may_end_anywhere(urls: list[str], end: str, pad: int) -> None:
    comment = "#" + "x" * ((1 << 16) - pad)
    assert read((comment + end + end.join(urls)).encode()) == urls


@given(st.text())
def test_trimming_twice_is_trimming_once(text: str) -> None:
    for one in (text, f"https://a.example/{text}", f'"https://a.example/{text}",'):
        assert plain_text.trimmed(plain_text.trimmed(one)) == plain_text.trimmed(one)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    try:
        assert all(read(content))
    except PermanentError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may also be read


FAILED = {"url": "https://a.example/1.jpg", "label": "cat", "reason": "timeout", "retriable": True, "attempts": 2}


def lines_of(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def test_the_failures_of_an_earlier_job_are_a_list() -> None:
    rows = [FAILED, FAILED | {"url": None}, FAILED | {"url": "ftp://odd", "detail": "x" * 300}, FAILED]
    assert read(lines_of(*rows)) == ["https://a.example/1.jpg", "ftp://odd", "https://a.example/1.jpg"]
    # A list of its own, whatever is known of the first of them.
    assert read(lines_of(FAILED | {"url": None}, FAILED)) == ["https://a.example/1.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines_of(FAILED) + b"https://a.example/2.jpg\n", "list.txt, line 2: expected a line of failed.jsonl, got "),
        (lines_of(FAILED, {"url": "https://a.example/2.jpg"}), "line 2: expected a line of failed.jsonl, got "),
        (lines_of(FAILED) + b"{", "line 2: expected a line of failed.jsonl, got "),
        (lines_of(FAILED | {"url": ["https://a.example/1.jpg"]}), "list.txt has no column with URLs"),
        (b"[" * 10_000, "list.txt, line 1: "),
        (b'{"url":' * 10_000, "list.txt, line 1: "),
    ],
)
def test_other_json_is_rejected(content: bytes, message: str) -> None:
    with pytest.raises(PermanentError, match=re.escape(message)):
        read(content)

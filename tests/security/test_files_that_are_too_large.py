"""Archives, texts and lists that take far more memory or time than they have bytes."""

import contextlib
import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from multidict import CIMultiDict

from pixcrawler_worker.crawl.lists import plain_text
from pixcrawler_worker.domain import labels, licenses, placeholders, tables
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.keywords import parse_keywords, search_words
from pixcrawler_worker.domain.safe_text import MAX_URL_LENGTH, normalized, safe, safe_json, safe_lines, safe_url
from pixcrawler_worker.errors import PermanentError, WorkerError
from pixcrawler_worker.export import download
from pixcrawler_worker.web import opt_outs, retry_after, robots


def unpacked(archive: Path, folder: Path) -> tuple[str, int]:
    """Unpack an archive; return the errors, and the bytes that it took in memory."""
    folder.mkdir(exist_ok=True)
    errors = []
    tracemalloc.start()
    try:
        for work in (download.entries, lambda path: download.unpack(path, folder)):
            try:
                work(archive)
            except PermanentError as error:
                errors.append(str(error))
        return "\n".join(errors), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb(path: Path, name: str, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open(name, "w") as file:
        for _ in range(size // 1_000_000):
            file.write((b"0" * 64 + b"  a\n") * 14_705)


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS-part-00001", "manifest.json", "a/b.jpg"])
def test_a_compressed_archive_is_not_unpacked(tmp_path: Path, name: str) -> None:
    bomb(tmp_path / "x.zip", name, 40_000_000)
    assert (tmp_path / "x.zip").stat().st_size < 400_000
    said, size = unpacked(tmp_path / "x.zip", tmp_path / "out")
    assert said.count("its files are compressed") == 2
    assert size < 10_000_000
    assert list((tmp_path / "out").iterdir()) == []


def test_files_that_share_their_bytes_are_not_unpacked(tmp_path: Path) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        packed.writestr("0", bytes(1_000_000))
    body = written.getvalue()
    end = body.index(b"PK\1\2")
    entry, count = body[end : end + 47], 2_000
    directory = b"".join(entry[:28] + struct.pack("<H", 5) + entry[30:46] + b"%05d" % number for number in range(count))
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), end, 0)
    (tmp_path / "x.zip").write_bytes(body[:end] + directory + tail)
    said, _ = unpacked(tmp_path / "x.zip", tmp_path / "out")
    assert "its files are larger than the archive" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_of_a_list_of_checksums_no_more_is_kept_than_there_are_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a.jpg", b"a")
        packed.writestr("SHA256SUMS", b"".join(b"  %06x\n" % number for number in range(100_000)))
    said, size = unpacked(tmp_path / "x.zip", tmp_path / "out")
    assert "a.jpg is not the file that was exported: its SHA-256 differs" in said
    assert size < 4_000_000, "the list has 900 kB"


def test_a_list_of_too_many_files_is_not_read(tmp_path: Path) -> None:
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, *[0] * 6, 0, 7, *[0] * 5, 0)
    directory = b"".join(entry + b"%07d" % number for number in range(400_000))
    for count, extra in ((0xFFFF, b""), (1, b"")):
        tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), 0, 0)
        (tmp_path / "x.zip").write_bytes(directory + extra + tail)
        said, size = unpacked(tmp_path / "x.zip", tmp_path / "out")
        assert said.count("its list of files is too long") == 2
        assert size < 10_000_000
    # The size of the list is in a record with 64 bits.
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "x.zip").write_bytes(directory + wide + locator + tail)
    said, size = unpacked(tmp_path / "x.zip", tmp_path / "out")
    assert said.count("it has no end as an export writes it") == 2
    assert size < 10_000_000


@pytest.mark.parametrize("name", ["a" * 60_000, "a/" * 5_000 + "b", "", "a\0b", "../" * 100 + "x", "."])
def test_odd_names_in_an_archive_are_rejected(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        info = zipfile.ZipInfo("x")
        info.filename = info.orig_filename = name
        packed.writestr(info, b"x")
    (tmp_path / "out").mkdir()
    try:
        download.unpack(tmp_path / "x.zip", tmp_path / "out")
    except PermanentError as error:
        assert len(str(error)) < 600  # noqa: PT017 - either outcome is right
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip", "out"}


# --- time ---

MEGABYTE = 1_000_000
#: Quadratic time would be minutes.
_SIZE = 100_000
PIECES = (
    *(
        " ",
        ",",
        ";",
        "|",
        "-",
        "_",
        ".",
        "/",
        "(",
        ")",
        "a",
        "a ",
        "a.",
        "a-",
        "1",
        "0.",
        "é",
        "\u0301\u0327",
        "\u202e",
    ),
    *(
        "&amp;",
        "&",
        "%",
        "'",
        '"',
        "`",
        "<",
        "<a",
        "](",
        "https://",
        "a/b*",
        "*",
        "#",
        ":",
        "=",
        "\t",
        "\n",
        "\r",
        "[",
        "{",
    ),
    *(
        ";'",
        ";=",
        "noai,",
        "cc-by-",
        "licenseref-",
        "user-agent: *\n",
        "disallow: /*\n",
        "\x1b",
        "\ud800",
        "src ",
        "href=",
    ),
)
#: What untrusted text comes into, besides the HTML of `tests/sources/test_html_text.py`.
READERS: dict[str, Callable[[str], object]] = {
    "safe": safe,
    "safe_lines": safe_lines,
    "safe_url": safe_url,
    "safe_json": lambda text: safe_json({text: [text]}),
    "normalized": lambda text: normalized("NFKD", text),
    "cell": lambda text: tables.text_of(str(tables.cell(text))),
    "label": lambda text: (labels.slug(text), labels.class_folder(text), labels.file_labels([text, f"{text}b"])),
    "keyword": lambda text: parse_keywords([text]),
    "search_words": search_words,
    "license": lambda text: (licenses.identifier(text), licenses.normalized(text), licenses.deed_url(text[:300])),
    "url_list": lambda text: list(plain_text.read(io.BytesIO(text.encode(errors="replace")), "list")),
    "url_list_of_urls": lambda text: list(
        plain_text.read(io.BytesIO(f"https://example.org/{text[:60_000]}x".encode(errors="replace")), "list")
    ),
    "trimmed": plain_text.trimmed,
    "retry_after": retry_after.parse,
    "robots": lambda text: robots.Rules(robots.for_agent(text.encode(errors="replace"), "pixcrawler")),
    "credit": lambda text: Credit(title=text, page_url=text, license=text, attribution=text).bounded(),
    "opt_outs": lambda text: opt_outs.check(CIMultiDict({"X-Robots-Tag": text}), "https://a/", agent="pixcrawler"),
}


def cpu_of(read: Callable[[str], object], text: str) -> float:
    """Return the seconds of CPU that it takes, at best: those of a busy machine differ, those of its steps do not."""
    found = 60.0
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(WorkerError):
            read(text)
        found = min(found, time.thread_time() - began)
        if found < 0.1:
            break
    return found


@pytest.mark.parametrize("reader", READERS)
def test_text_of_any_kind_is_read_in_no_time(reader: str) -> None:
    read = READERS[reader]
    slow = {}
    for piece in PIECES:
        for start, end in (("", ""), ("https://a.example/", "x!")):
            text = start + piece * (_SIZE // len(piece)) + end
            if (seconds := cpu_of(read, text)) > 0.2:
                slow[start, piece] = round(seconds, 2)
    assert slow == {}


def test_a_url_that_nearly_matches_the_patterns_of_placeholders_takes_no_time() -> None:
    known = placeholders.parse([f"url: i.example.com/removed{'*a' * 10}*b.png"], origin="list")
    near = f"https://i.example.com/removed{'a' * 8_000}"
    assert cpu_of(known.check_url, near) < 0.2
    with pytest.raises(WorkerError):
        known.check_url(f"https://i.example.com/removed{'xa' * 10}xb.png")


def test_the_credit_of_an_image_is_bounded_where_it_enters() -> None:
    long = "x" * MEGABYTE
    found = Credit(page_url=long, title=long, author=long, license=long, license_url=long, attribution=long).bounded()
    assert found.page_url is found.license_url is None
    assert len(str(found)) < 10_000
    url = f"https://a/{'b' * (MAX_URL_LENGTH - 10)}"
    short = Credit(page_url=url, title="a", author="b", license="cc0-1.0", attribution="c")
    assert short.bounded() == short

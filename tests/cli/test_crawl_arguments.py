"""URL lists, as `pixcrawler crawl` and `build` read them."""

from pathlib import Path

import pytest

from pixcrawler_worker.cli.crawl_arguments import read_urls
from pixcrawler_worker.errors import PermanentError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"https://a.example/1\nhttps://a.example/2", ("https://a.example/1", "https://a.example/2")),
        (b"# no\n\n  \n\t# no\nhttps://a.example/#yes\n", ("https://a.example/#yes",)),
        (b"https://a.example/1\r\nhttps://a.example/2\r\n", ("https://a.example/1", "https://a.example/2")),
        (b"https://a.example/1\rhttps://a.example/2", ("https://a.example/1", "https://a.example/2")),
        (b"\xef\xbb\xbfhttps://a.example/1\n", ("https://a.example/1",)),
        (b"\xef\xbb\xbf# no\nhttps://a.example/1\n", ("https://a.example/1",)),
        (b"\x00\nhttps://a.example/\x001\n \x00 \n", ("https://a.example/1",)),
        (b"\x00 https://a.example/1\n\x00# no\n", ("https://a.example/1",)),
        (b"https://a.example/\xff\n", ("https://a.example/\ufffd",)),
        ("https://a.example/ü\u2028\n".encode(), ("https://a.example/ü",)),
        (b"  not a url \n", ("not a url",)),
    ],
)
def test_a_list_has_one_url_per_line(tmp_path: Path, text: bytes, found: tuple[str, ...]) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with (tmp_path / "list.txt").open(encoding="utf-8", errors="replace") as lines:
        assert read_urls(lines) == found


@pytest.mark.parametrize("text", [b"", b"\n", b"# only\r\n", b"\x00", b"\xef\xbb\xbf"])
def test_a_list_without_urls_is_rejected_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with (
        (tmp_path / "list.txt").open(encoding="utf-8", errors="replace") as lines,
        pytest.raises(PermanentError, match=r"^list.txt contains no URLs: expected one per line$"),
    ):
        read_urls(lines)

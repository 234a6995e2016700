"""Encodings of lists without a byte order mark."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.crawl.lists import reading

URLS = [f"http://a.example/{number}.jpg" for number in range(5)]
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("first", ["", "# \u65e5\u672c\u8a9e\n", "\n\n"])
def test_wide_encodings_are_found_without_a_mark(encoding: str, first: str) -> None:
    content = (first + "\n".join(URLS)).encode(encoding)
    assert [row.url for row in reading.read(io.BytesIO(content), "list")] == URLS


@given(
    st.sampled_from(WIDE), st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0'), min_size=1, max_size=8)
)
def test_captions_of_any_script_do_not_hide_a_wide_encoding(encoding: str, word: str) -> None:
    content = "url,caption\n" + "\n".join(f"{url},x{word}x" for url in URLS)
    rows = list(reading.read(io.BytesIO(content.encode(encoding)), "list"))
    assert [(row.url, row.caption) for row in rows] == [(url, f"x{word}x") for url in URLS]


def test_a_few_zero_bytes_are_none_of_an_encoding() -> None:
    content = "url,caption\n" + "\n".join(f"{url},a\0\0\0b" for url in URLS)
    assert [row.caption for row in reading.read(io.BytesIO(content.encode()), "list")] == ["ab"] * 5

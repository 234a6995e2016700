import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError


def rows(count: int) -> Iterator[ListRow]:
    for at in range(count):
        yield ListRow(f"http://a.example/{at}", "a \u00e9 cat" if at % 2 else None, None, {"n": at}, at + 2)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 2345])
@pytest.mark.parametrize("size", [1, 7, 100, 1000, 5000])
def test_the_rows_come_back_in_pages_of_any_size(count: int, size: int) -> None:
    expected = list(rows(count))
    with StoredList(expected) as listed:
        assert len(listed) == count
        found = list(listed.pages(size))
        assert [row for page in found for row in page.rows()] == expected
        assert [len(page.urls) for page in found[:-1]] == [size] * (len(found) - 1)
        for start in (0, 3, 998, count):
            assert listed.page(start, size) == tuple(expected[start : start + size])


def test_a_mistake_in_the_last_row_leaves_nothing() -> None:
    def cut_off() -> Iterator[ListRow]:
        yield from rows(3)
        raise PermanentError("cut off")

    with pytest.raises(PermanentError, match="cut off"):
        StoredList(cut_off())


def test_what_is_in_memory_does_not_grow_with_the_list() -> None:
    tracemalloc.start()
    try:
        with StoredList(ListRow(f"http://a.example/{at}", f"{at} " * 500) for at in range(10_000)) as listed:
            assert sum(len(page.urls) for page in listed.pages(100)) == 10_000
        # The file has 24 MB.
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


_FULL = """
import resource
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.domain.list_rows import ListRow
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
StoredList(ListRow("http://a.example/" + "a" * 1000) for _ in range(10_000))
"""


def test_a_disk_that_is_full_is_an_error_that_says_where_there_may_be_room() -> None:
    ended = subprocess.run([sys.executable, "-c", _FULL], capture_output=True, text=True, check=False)
    assert "PermanentError: the list cannot be kept in " in ended.stderr
    assert "Set TMPDIR to a directory with more room" in ended.stderr


def test_long_captions_are_not_held_in_memory() -> None:
    rows = (ListRow("http://a.example/", f"{at}{'a' * 100_000}") for at in range(1000))
    tracemalloc.start()
    try:
        with StoredList(rows) as stored:
            assert sum(len(page.urls) for page in stored.pages(100)) == len(stored) == 1000
            _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A page has 10 MB, and its JSON is there as text and as bytes.
    assert most < 60 << 20

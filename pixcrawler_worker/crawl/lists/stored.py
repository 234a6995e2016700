"""A URL list that was read, in a temporary file: neither its length nor its captions are in memory.

It is read to its end before a job is created, so that a list which is cut off, or wrong in its last row, creates none,
and that the transaction which records it does not wait for a network or a pipe.
"""

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Self

from pixcrawler_worker.domain.list_rows import ListPage, ListRow, pages
from pixcrawler_worker.errors import PermanentError

#: Rows that are written and read at a time: each may have a caption of 120,000 characters, and as many of columns.
_BATCH = 100
#: Bytes of a list that stays in memory.
_IN_MEMORY = 4 << 20


class StoredList:
    """The rows of a URL list, in pages. Use it as a context, or close it.

    Args:
        rows: of the list.

    Raises:
        PermanentError: when there is no room for the file.
    """

    def __init__(self, rows: Iterable[ListRow]) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="pixcrawler-")  # noqa: SIM115 - closed by `close`
        self._length = 0
        # Where each batch begins, and the last one ends.
        self._starts = [0]
        try:
            for page in pages(rows, _BATCH):
                self._write(page)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Delete the file. Closing it again is harmless."""
        self._file.close()

    def page(self, start: int, size: int) -> tuple[ListRow, ...]:
        """Return rows from a position on, from 0; fewer beyond the end."""
        batches = map(self._batch, range(start // _BATCH, len(self._starts) - 1))
        rows = itertools.chain.from_iterable(batch.rows() for batch in batches)
        return tuple(itertools.islice(rows, start % _BATCH, start % _BATCH + size))

    def pages(self, size: int) -> Iterator[ListPage]:
        """Yield all rows in pages of a size; the last one has what is left."""
        rest = ListPage([], [], [])
        for batch in map(self._batch, range(len(self._starts) - 1)):
            rest = ListPage(rest.urls + batch.urls, rest.details + batch.details, rest.numbers + batch.numbers)
            whole = len(rest.urls) // size * size
            for at in range(0, whole, size):
                yield rest.part(at, at + size)
            rest = rest.part(whole, None)
        if rest.urls:
            yield rest

    def _write(self, page: ListPage) -> None:
        try:
            self._file.write(json.dumps(page, ensure_ascii=False).encode())
            self._file.flush()
        except OSError as error:
            raise PermanentError(
                f"the list cannot be kept in {tempfile.gettempdir()} while it is read: {error.strerror}. Set TMPDIR to "
                "a directory with more room"
            ) from error
        self._starts.append(self._file.tell())
        self._length += len(page.urls)

    def _batch(self, at: int) -> ListPage:
        self._file.seek(self._starts[at])
        return ListPage(*json.loads(self._file.read(self._starts[at + 1] - self._starts[at])))

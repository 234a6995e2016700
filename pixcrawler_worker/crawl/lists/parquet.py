"""Parquet, where pyarrow is installed."""

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from pixcrawler_worker.crawl.lists.rows import Row
from pixcrawler_worker.errors import PermanentError

#: The first bytes of a Parquet file.
MAGIC = b"PAR1"
_BATCH = 4096
_BLOCK = 1 << 20


def rows(file: BinaryIO, name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file. A batch of them is in memory.

    Args:
        file: is copied to a temporary file: the columns are read from its end.
        name: of the list, for messages.

    Raises:
        PermanentError: when the file is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise PermanentError(
            f"{name} is a Parquet file, which needs pyarrow: pip install 'pixcrawler-worker[parquet]'"
        ) from None
    with tempfile.TemporaryFile(prefix="pixcrawler-") as copy:
        shutil.copyfileobj(file, copy, _BLOCK)
        try:
            opened = parquet.ParquetFile(copy)
            number = 0
            for batch in opened.iter_batches(batch_size=_BATCH):
                names = batch.schema.names
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield Row(number, dict(zip(names, values, strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise PermanentError(f"{name} cannot be read as Parquet: {_first_line(error)}") from error


def _first_line(error: Any) -> str:  # noqa: ANN401 - pyarrow has no types
    return str(error).partition("\n")[0][:200]

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
            # With `pre_buffer`, all that was read of the file stays in memory.
            opened = parquet.ParquetFile(copy, pre_buffer=False)
            names = [column.name for column in opened.schema_arrow if not _has_files(column.type)]
            number = 0
            for batch in opened.iter_batches(batch_size=_BATCH, columns=names, use_threads=False):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, dict(zip(batch.schema.names, values, strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise PermanentError(f"{name} cannot be read as Parquet: {_first_line(error)}") from error


def _has_files(type_: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Return whether a nested column has bytes: those of images, as datasets of Hugging Face have them."""
    from pyarrow import types  # noqa: PLC0415

    if not types.is_nested(type_):
        return False
    inner = [type_.field(at).type for at in range(type_.num_fields)]
    return any(_is_binary(one) or _has_files(one) for one in inner)


def _is_binary(type_: Any) -> bool:  # noqa: ANN401
    from pyarrow import types  # noqa: PLC0415

    return bool(types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_))


def _values(column: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of a column. Bytes are text, as some programs write it, or else nothing."""
    import pyarrow as pa  # noqa: PLC0415

    if _is_binary(column.type):
        return [None if value is None else _text(value) for value in column.to_pylist()]
    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except (ValueError, OverflowError, LookupError):
        # Python has no such time: nanoseconds, years above 9999, a time zone that is not known here.
        return list(column.cast(pa.string()).to_pylist())


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _first_line(error: Any) -> str:  # noqa: ANN401 - pyarrow has no types
    return str(error).partition("\n")[0][:200]

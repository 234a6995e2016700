"""Parquet, where pyarrow is installed."""

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from pixcrawler_worker.crawl.lists.rows import Row, unique
from pixcrawler_worker.errors import PermanentError

#: The first bytes of a Parquet file.
MAGIC = b"PAR1"
#: Rows of a batch, and its bytes, as far as the file says how long its rows are.
_BATCH, _BATCH_BYTES = 256, 4 << 20
_BLOCK = 1 << 20


def rows(file: BinaryIO, name: str, unread: list[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file. A batch of them is in memory.

    Texts that are not UTF-8, which programs write and Parquet does not check, have their bytes as `surrogateescape`
    decodes them.

    Args:
        file: is copied to a temporary file: the columns are read from its end.
        name: of the list, for messages.
        unread: the names of columns with files in them are added to it.

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
            fields = list(opened.schema_arrow)
            unread.extend(field.name for field in fields if _has_files(field.type))
            read = list(dict.fromkeys(field.name for field in fields if not _has_files(field.type)))
            number = 0
            for batch in opened.iter_batches(batch_size=_batch_size(opened.metadata), columns=read, use_threads=False):
                # A name may be that of several columns.
                kept = [column for column in batch.columns if not _has_files(column.type)]
                names = unique([field.name for field in batch.schema if not _has_files(field.type)])
                for values in zip(*map(_values, kept), strict=True):
                    number += 1
                    yield Row(number, dict(zip(names, values, strict=True)))
        except (pa.ArrowException, OSError, ValueError) as error:
            # Names of columns that are not UTF-8 are an error of Python.
            raise PermanentError(
                f"{name} cannot be read as Parquet: {_first_line(error)}: {_advice(str(error))}"
            ) from error


def _batch_size(metadata: Any) -> int:  # noqa: ANN401 - pyarrow has no types
    """Return the number of rows of a batch, by the longest rows of a row group on average."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_BATCH, _BATCH_BYTES // max(longest, 1)))


def _advice(error: str) -> str:
    return "decrypt it first" if "ecrypt" in error else "get or write the file again"


def _has_files(type_: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Return whether a nested column has bytes: those of images, as datasets of Hugging Face have them."""
    from pyarrow import types  # noqa: PLC0415

    if not types.is_nested(type_):
        return False
    inner = [type_.field(at).type for at in range(type_.num_fields)]
    return any(_is_binary(one) or _has_files(one) for one in inner)


def _is_binary(type_: Any) -> bool:  # noqa: ANN401
    from pyarrow import types  # noqa: PLC0415

    is_any = types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view
    return any(is_one(type_) for is_one in is_any)


def _values(column: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of a column. Bytes are text, as some programs write it, or else nothing."""
    from pyarrow import types  # noqa: PLC0415

    if types.is_dictionary(column.type):
        # Each value once: decoded, a long one of each row would be in memory.
        values = _values(column.dictionary)
        return [None if at is None else values[at] for at in column.indices.to_pylist()]
    if _is_binary(column.type):
        return [None if value is None else _text(value) for value in column.to_pylist()]
    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except (ValueError, OverflowError, LookupError):
        return [_value(value) for value in column]


def _value(scalar: Any) -> Any:  # noqa: ANN401
    """Return a value of a column in which there is one that Python does not have.

    Such are texts that are not UTF-8, and times: nanoseconds, years above 9999, time zones that are not known here.
    """
    from pyarrow import types  # noqa: PLC0415

    if not scalar.is_valid:
        return None
    type_ = scalar.type
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    if types.is_map(type_):
        keys, items = scalar.values.field(0), scalar.values.field(1)
        return {str(_value(key)): _value(item) for key, item in zip(keys, items, strict=True)}
    if types.is_struct(type_):
        return {name: _value(scalar[at]) for at, name in enumerate(unique([field.name for field in type_]))}
    return [_value(one) for one in scalar.values] if types.is_nested(type_) else _flat(scalar)


def _flat(scalar: Any) -> Any:  # noqa: ANN401
    """Return a value; a time that Python does not have as pyarrow writes it, of an unknown time zone as that of UTC."""
    import pyarrow as pa  # noqa: PLC0415

    try:
        return scalar.as_py()
    except (ValueError, OverflowError, LookupError):
        pass
    try:
        return str(scalar.cast(pa.string()).as_py())
    except pa.ArrowException:
        return f"{scalar.cast(pa.timestamp(scalar.type.unit)).cast(pa.string()).as_py()}Z"


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _first_line(error: Any) -> str:  # noqa: ANN401 - pyarrow has no types
    return str(error).partition("\n")[0][:200]

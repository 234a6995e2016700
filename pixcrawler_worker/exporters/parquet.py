"""Parquet files with embedded images, as on Hugging Face's hub."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pixcrawler_worker.domain.list_columns import TEXT, ColumnType
from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS, Value
from pixcrawler_worker.exporters import features
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Feature, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise ImportError("layout parquet needs pyarrow: pip install 'pixcrawler-worker[parquet]'") from error

#: Limit of the rows in a row group.
_GROUP_ROWS = 100

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES: Mapping[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


class Parquet(Layout):
    """`data/<split>-<part>-of-<parts>-<number>.parquet`, a row per image, the class as text in `label`.

    `datasets` infers the splits from these names, whatever the splits are called. Its pattern allows a suffix after the
    number of files, so each archive counts as one file.

    Attributes:
        full_file_bytes: size at which a file is finished.
        full_group_bytes: bytes of images at which a row group, which readers load as a whole, is finished.
    """

    summary: ClassVar[str] = "Parquet files with the images inside: Hugging Face datasets, pandas, DuckDB, Spark"

    full_file_bytes: ClassVar[int] = 64 * 1024 * 1024
    full_group_bytes: ClassVar[int] = 8 * 1024 * 1024

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._place = f"{dataset.part:05d}-of-{dataset.parts:05d}"
        self._types: Mapping[str, ColumnType] = {
            **{name: "int64" if name in NUMBERS else "string" for name in COLUMNS},
            **dataset.columns,
        }
        self._open: dict[str, _ParquetFile] = {}
        self._ended: dict[str, int] = {}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name in the row of the image, and the Parquet file if it is full."""
        name, split = f"{sample.stem}.{sample.extension}", sample.split or "train"
        if split not in self._open:
            self._open[split] = _ParquetFile(self._types, self.full_group_bytes)
        self._open[split].add(sample.body, {"file_name": name, **sample.row})
        return name, iter([self._end(split)] if self._open[split].size >= self.full_file_bytes else [])

    def close(self) -> Iterator[Entry]:
        """Return the last file of each split."""
        for split in list(self._open):
            yield self._end(split)

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the pattern of the files of a split."""
        return f"data/{split or 'train'}-*.parquet"

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the columns of the files. Their text in `label` is cast to a class."""
        return {"image": "image", **features.of_tables(labels)}

    def _end(self, split: str) -> Entry:
        number = self._ended.get(split, 0)
        self._ended[split] = number + 1
        return Entry(f"data/{split}-{self._place}-{number:05d}.parquet", self._open.pop(split).finish())


class _ParquetFile:
    """A Parquet file that is being written. Its last row group is in memory.

    Args:
        types: of the columns, besides that of the images.
        full_group_bytes: see `Parquet`.
    """

    def __init__(self, types: Mapping[str, ColumnType], full_group_bytes: int) -> None:
        self._full_group_bytes = full_group_bytes
        self._sink = _SpoolFile()
        # Declares the column of images, so that `datasets` decodes them. Source: its `ArrowWriter._build_metadata`.
        features = {"image": {"_type": "Image"}} | {
            name: {"dtype": type_, "_type": "Value"} for name, type_ in types.items()
        }
        self._schema = pa.schema(
            [("image", _IMAGE), *((name, _TYPES[type_]) for name, type_ in types.items())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        self._writer = parquet.ParquetWriter(
            self._sink,
            self._schema,
            # Images are already compressed, and neither repeat nor have an order.
            compression={"image.bytes": "NONE", **dict.fromkeys(("image.path", *types), "SNAPPY")},
            use_dictionary=[name for name, type_ in types.items() if type_ == "string"],
            write_statistics=[name for name in types if name != TEXT],
            # Values between two checks of the size of a page: with 1, a page of images has about the usual size.
            write_batch_size=1,
        )
        self._rows: list[dict[str, object]] = []
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes so far, including those in memory."""
        return self._sink.spool.size + self._waiting

    def add(self, body: bytes, row: Mapping[str, Value]) -> None:
        self._rows.append({"image": {"bytes": body, "path": row["file_name"]}, **row})
        self._waiting += len(body)
        if len(self._rows) >= _GROUP_ROWS or self._waiting >= self._full_group_bytes:
            self._write()

    def finish(self) -> Spool:
        if self._rows:
            self._write()
        self._writer.close()
        return self._sink.spool

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), row_group_size=_GROUP_ROWS)
        self._rows.clear()
        self._waiting = 0


class _SpoolFile(io.RawIOBase):
    """A spool as a writable file."""

    def __init__(self) -> None:
        self.spool = Spool()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        # Large buffers are bytes already and need no copy.
        written = data if isinstance(data, bytes) else bytes(memoryview(data))  # type: ignore[arg-type]  # a buffer
        self.spool.write(written)
        return len(written)

    def tell(self) -> int:
        return self.spool.size

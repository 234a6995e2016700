"""TFRecord files of tf.train.Example, encoded here: TensorFlow is not needed."""

import struct
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.list_columns import TEXT
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

try:
    import google_crc32c
except ImportError as error:
    raise ImportError("layout tfrecord needs google-crc32c: pip install 'pixcrawler-worker[tfrecord]'") from error

#: Values of `image/format` in TensorFlow's own datasets.
_FORMATS = {"jpg": b"jpeg", "png": b"png", "gif": b"gif", "bmp": b"bmp"}
#: Columns that are stored with each image for its attribution.
_ATTRIBUTION = ("source_url", "license", "attribution")
#: The feature of captions, as in TensorFlow's im2txt.
_CAPTION = "image/caption"

_LENGTH, _CHECKSUM, _FLOAT = struct.Struct("<Q"), struct.Struct("<I"), struct.Struct("<f")
#: Largest number that a feature, which has 32 bits, can hold.
_MAX_FLOAT = 3.4028234663852886e38
#: Wire type of length-delimited fields: all fields here but numbers.
_DELIMITED = 2


class TfRecord(Layout):
    """`<split>-<part>-<number>.tfrecord`, with the feature names of TensorFlow's slim and object detection datasets.

    Columns of URL lists are features with their names. Numbers that are no integers have 32 bits there.

    Attributes:
        max_file_bytes: limit of a file, except for a single larger image.
    """

    summary: ClassVar[str] = "TFRecord files of tf.train.Example: TensorFlow, Keras, TPUs"
    # The formats that every tf.io.decode_image supports.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg", "png", "gif", "bmp")

    max_file_bytes: ClassVar[int] = 128 * 1024 * 1024

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._part = dataset.part
        self._classes = {label: number for number, label in enumerate(dataset.labels)}
        self._open: dict[str, Spool] = {}
        self._ended: dict[str, int] = {}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name in the record of the image, and the previous file if the image begins another one."""
        name, split = f"{sample.stem}.{sample.extension}", sample.split or "train"
        record = _record(self._example(name, sample))
        full = []
        if split in self._open and self._open[split].size + len(record) > self.max_file_bytes:
            full.append(self._end(split))
        if split not in self._open:
            self._open[split] = Spool()
        self._open[split].write(record)
        return name, iter(full)

    def close(self) -> Iterator[Entry]:
        """Return the last file of each split."""
        for split in list(self._open):
            yield self._end(split)

    def _end(self, split: str) -> Entry:
        number = self._ended.get(split, 0)
        self._ended[split] = number + 1
        return Entry(f"{split}-{self._part:05d}-{number:05d}.tfrecord", self._open.pop(split))

    def _example(self, name: str, sample: Sample) -> bytes:
        features: dict[str, bytes | int | float] = {
            "image/encoded": sample.body,
            "image/format": _FORMATS[sample.extension],
            "image/width": sample.width,
            "image/height": sample.height,
            "image/class/label": self._classes[sample.label],
            "image/class/text": sample.label.encode(),
            "image/filename": name.encode(),
            "image/source_id": sample.stem.encode(),
            **{column: str(sample.row[column]).encode() for column in _ATTRIBUTION},
        }
        for column in self._dataset.columns:
            value = sample.row[column]
            feature = value.encode() if isinstance(value, str) else value
            features[_CAPTION if column == TEXT else column] = feature
        return _example(features)


def _record(data: bytes) -> bytes:
    """Return a record: the length and its checksum, the data and its checksum.

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
    """
    length = _LENGTH.pack(len(data))
    return b"".join((length, _masked(length), data, _masked(data)))


def _masked(data: bytes) -> bytes:
    # Masked, as TensorFlow does: computing the CRC of data that contains its own CRC is problematic.
    crc: int = google_crc32c.value(data)
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _example(features: Mapping[str, bytes | int | float]) -> bytes:
    """Return a tf.train.Example with its features sorted by name: equal features give equal bytes.

    Source: tensorflow/core/example/feature.proto. An Example has its Features in field 1, these a map in field 1, whose
    entries have the name in 1 and a Feature in 2: a list of bytes in 1, of floats in 2, or of integers in 3, itself in
    field 1.
    """
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(features[name]))) for name in sorted(features))
    return _field(1, b"".join(entries))


def _feature(value: bytes | float) -> bytes:
    # Numbers of a list are packed: they have no tags.
    if isinstance(value, int):
        return _field(3, _field(1, _varint(value)))
    if isinstance(value, float):
        return _field(2, _field(1, _FLOAT.pack(max(-_MAX_FLOAT, min(_MAX_FLOAT, value)))))
    return _field(1, _field(1, value))


def _field(number: int, data: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _DELIMITED), _varint(len(data)), data))


def _varint(value: int) -> bytes:
    """Return an integer as a varint: seven bits per byte, the lowest first, and the complement of a negative one."""
    written = bytearray()
    value &= 0xFFFFFFFFFFFFFFFF
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)

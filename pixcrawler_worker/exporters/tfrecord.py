"""TFRecord files of tf.train.Example, written byte by byte: TensorFlow itself is not needed for that."""

import struct
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

try:
    import google_crc32c
except ImportError as error:
    raise ImportError("layout tfrecord needs google-crc32c: pip install 'pixcrawler-worker[tfrecord]'") from error

#: Bytes that a file has at most, but for one image that has more.
_FILE = 128 * 1024 * 1024
#: What TensorFlow's own datasets write in `image/format`.
_FORMATS = {"jpg": b"jpeg", "png": b"png", "gif": b"gif", "bmp": b"bmp"}
#: Texts that images are kept with because they must not be parted from them.
_KEPT = ("source_url", "license", "attribution")

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
#: Wire type of fields with a length in front: everything here but numbers.
_DELIMITED = 2


class TfRecord(Layout):
    """`<split>-<part>-<number>.tfrecord`, with the feature names of TensorFlow's slim and object detection datasets."""

    summary: ClassVar[str] = "TFRecord files of tf.train.Example: TensorFlow, Keras, TPUs"
    # What every tf.io.decode_image opens.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg", "png", "gif", "bmp")

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._part = dataset.part
        self._classes = {label: number for number, label in enumerate(dataset.labels)}
        self._open: dict[str, Spool] = {}
        self._ended: dict[str, int] = {}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name in the image's record, and the file before if this image begins another one."""
        name, split = f"{sample.stem}.{sample.extension}", sample.split or "train"
        record = _record(self._example(name, sample))
        full = []
        if split in self._open and self._open[split].size + len(record) > _FILE:
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
        features: dict[str, bytes | int] = {
            "image/encoded": sample.body,
            "image/format": _FORMATS[sample.extension],
            "image/width": sample.width,
            "image/height": sample.height,
            "image/class/label": self._classes[sample.label],
            "image/class/text": sample.label.encode(),
            "image/filename": name.encode(),
            "image/source_id": sample.stem.encode(),
            **{column: str(sample.row[column]).encode() for column in _KEPT},
        }
        return _example(features)


def _record(data: bytes) -> bytes:
    """Return a record: the length and its checksum, the data and its checksum.

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
    """
    length = _LENGTH.pack(len(data))
    return b"".join((length, _masked(length), data, _masked(data)))


def _masked(data: bytes) -> bytes:
    # Rotated, because the checksum of data that holds its own checksum would be no good.
    crc: int = google_crc32c.value(data)
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _example(features: Mapping[str, bytes | int]) -> bytes:
    """Return a tf.train.Example, features in the order of their names: the same ones give the same bytes.

    Source: tensorflow/core/example/feature.proto. An Example has its Features in field 1, these a map in field 1, whose
    entries have the name in 1 and a Feature in 2: a list of bytes in 1, or of numbers in 3, itself in field 1.
    """
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(features[name]))) for name in sorted(features))
    return _field(1, b"".join(entries))


def _feature(value: bytes | int) -> bytes:
    if isinstance(value, int):
        # Numbers of a list stand side by side, without a tag each.
        return _field(3, _field(1, _varint(value)))
    return _field(1, _field(1, value))


def _field(number: int, data: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _DELIMITED), _varint(len(data)), data))


def _varint(value: int) -> bytes:
    """Return a whole number that is not negative, seven bits at a time, the lowest first."""
    written = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)

import re
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from layout_samples import EMOJI, LABELS, SPLITS, archives, dataset, sample, write

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.tfrecord import TfRecord

#: CRC-32C a bit at a time, from its polynomial: slow, and independent of what writes the files.
_POLYNOMIAL = 0x82F63B78
_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ (_POLYNOMIAL if _value & 1 else 0)
    _TABLE.append(_value)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def unmasked(masked: int) -> int:
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def records(body: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(body):
        (length,) = struct.unpack_from("<Q", body, place)
        (check,) = struct.unpack_from("<I", body, place + 8)
        assert unmasked(check) == crc32c(body[place : place + 8])
        data = body[place + 12 : place + 12 + length]
        (check,) = struct.unpack_from("<I", body, place + 12 + length)
        assert unmasked(check) == crc32c(data)
        yield data
        place += 16 + length
    assert place == len(body)


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        assert tag & 7 == 2
        length, place = varint(data, place)
        assert place + length <= len(data)
        yield tag >> 3, data[place : place + length]
        place += length


def only(data: bytes, number: int) -> bytes:
    ((found, inner),) = fields(data)
    assert found == number
    return inner


def example(data: bytes) -> dict[str, bytes | int]:
    found: dict[str, bytes | int] = {}
    for number, entry in fields(only(data, 1)):
        assert number == 1
        (one, name), (two, feature) = fields(entry)
        assert (one, two) == (1, 2)
        ((kind, values),) = fields(feature)
        assert kind in {1, 3}
        value = only(values, 1)
        found[name.decode()] = value if kind == 1 else varint(value, 0)[0]
    return found


def test_the_checksum_of_the_tests_is_the_published_one() -> None:
    # RFC 3720, B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_record_is_an_example_with_the_features_that_tensorflow_datasets_have() -> None:
    image = sample(300, label=EMOJI, extension="png", body=b"\x89PNG" + bytes(200))
    (body,) = write(TfRecord, dataset(), [image]).files.values()
    (record,) = records(body)
    assert example(record) == {
        "image/encoded": image.body,
        "image/format": b"png",
        "image/width": 308,
        "image/height": 8,
        "image/class/label": LABELS.index(EMOJI),
        "image/class/text": EMOJI.encode(),
        "image/filename": f"{image.stem}.png".encode(),
        "image/source_id": image.stem.encode(),
        "source_url": b"https://images.example/300.png",
        "license": b"cc-by-4.0",
        "attribution": b"300 by Ada",
    }


def test_features_are_sorted_by_name() -> None:
    (body,) = write(TfRecord, dataset(), [sample(0)]).files.values()
    (record,) = records(body)
    names = list(example(record))
    assert all(first < second for first, second in pairwise(names))


def test_every_image_of_every_split_is_a_record() -> None:
    for described, samples in archives(TfRecord, splits=SPLITS, parts=1):
        files = write(TfRecord, described, samples).files
        assert list(files) == [f"{split}-00000-00000.tfrecord" for split in SPLITS]
        for split, body in zip(SPLITS, files.values(), strict=True):
            found = [example(record) for record in records(body)]
            mine = [one for one in samples if one.split == split]
            assert [one["image/encoded"] for one in found] == [one.body for one in mine]
            assert [one["image/class/label"] for one in found] == [LABELS.index(one.label) for one in mine]
            assert {one["image/format"] for one in found} == {b"jpeg", b"png"}


def test_a_file_ends_before_it_is_too_large() -> None:
    class SmallFiles(TfRecord):
        max_file_bytes = 5_000

    samples = [sample(number, body=bytes(1_000)) for number in range(10)] + [sample(10, body=bytes(9_000))]
    files = write(SmallFiles, dataset(part=4, parts=5), samples).files
    assert list(files) == [f"train-00004-0000{number}.tfrecord" for number in range(len(files))]
    assert [len(body) <= 5_000 for body in files.values()] == [True] * (len(files) - 1) + [False]
    assert sum(len(list(records(body))) for body in files.values()) == 11


def test_without_google_crc32c_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    monkeypatch.delitem(sys.modules, "pixcrawler_worker.exporters.tfrecord")
    with pytest.raises(PermanentError, match=re.escape("pip install 'pixcrawler-worker[tfrecord]'")):
        protocol.load("tfrecord")

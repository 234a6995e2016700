import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from layout_samples import EXTRAS, LABELS, SPLITS, archives, dataset, sample, write

from pixcrawler_worker.export.archive_formats import Tar
from pixcrawler_worker.exporters.webdataset import WebDataset


def packed(files: Mapping[str, bytes]) -> bytes:
    archive, written = Tar(), bytearray()
    for path, body in files.items():
        written += archive.header(path, size=len(body), crc=zlib.crc32(body)) + body + archive.padding(len(body))
    return bytes(written + archive.trailer())


def unpacked(body: bytes) -> list[tuple[str, bytes]]:
    """Return the files in their order, read sequentially as readers of shards do."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(body), mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found.append((member.name, file.read()))
    return found


def test_an_image_is_followed_by_its_class_and_its_row() -> None:
    for described, samples in archives(WebDataset, splits=SPLITS, parts=1):
        files = unpacked(packed(write(WebDataset, described, samples).files))
        assert len(files) == 3 * len(samples)
        for number, one in enumerate(samples):
            (image, body), (cls, label), (row, columns) = files[3 * number : 3 * number + 3]
            assert (image, cls, row) == (f"{one.stem}.jpg", f"{one.stem}.cls", f"{one.stem}.json")
            assert body == one.body
            assert LABELS[int(label)] == one.label
            assert json.loads(columns) == {"file_name": image, **one.row}


def test_columns_are_the_same_for_every_image_without_nulls_or_dots() -> None:
    written = write(WebDataset, dataset(), [sample(0), sample(1, title="", license="")])
    rows = [json.loads(body) for path, body in written.files.items() if path.endswith(".json")]
    shapes = [{name: type(value) for name, value in row.items()} for row in rows]
    assert shapes[0] == shapes[1]
    assert set(shapes[0].values()) == {str, int}
    assert not any("." in name for name in shapes[0])


def test_sidecar_files_do_not_belong_to_a_sample() -> None:
    made = WebDataset(dataset())
    for name in EXTRAS:
        path = made.extra_path(name)
        # Readers group files by the part before the first dot, and ignore those without one.
        assert path is not None
        assert "." not in PurePosixPath(path).name

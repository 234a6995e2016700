"""Archives, opened by other programs and libraries."""

import io
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.archive_formats import MAX_ENTRIES, Archive, Plain, Tar, Zip

FILES = {
    "a/empty.txt": b"",
    "a/one.bin": b"\x00",
    "a/block.bin": bytes(512),
    "b/" + 90 * "n" + ".jpg": bytes(range(256)) * 5,
}


def archived(archive: Archive, files: dict[str, bytes]) -> bytes:
    written = b""
    for path, body in files.items():
        written += archive.header(path, size=len(body), crc=zlib.crc32(body)) + body + archive.padding(len(body))
    return written + archive.trailer()


def test_a_zip_has_its_files_stored_with_a_constant_date() -> None:
    with zipfile.ZipFile(io.BytesIO(archived(Zip(), FILES))) as packed:
        assert packed.testzip() is None
        assert {entry.filename: packed.read(entry) for entry in packed.infolist()} == FILES
        for entry in packed.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644
            # No data descriptor: size and CRC are before the file.
            assert entry.flag_bits == 0


def test_a_tar_has_its_files_in_the_ustar_format() -> None:
    body = archived(Tar(), FILES)
    assert body[257:265] == b"ustar\x0000"
    with tarfile.open(fileobj=io.BytesIO(body)) as packed:
        found = {}
        for entry in packed:
            file = packed.extractfile(entry)
            assert file
            found[entry.name] = file.read()
            assert (entry.mtime, entry.mode, entry.uid, entry.uname) == (315532800, 0o644, 0, "")
        assert found == FILES


@pytest.mark.parametrize("size", [0, 1, 511, 512, 123_456_789, 8**11 - 1])
@pytest.mark.parametrize("path", ["a", "a/b.jpg", 99 * "x", 100 * "x", f"{80 * 'a'}/{80 * 'b'}.jpg", "~ !/-_.json"])
def test_headers_of_a_tar_are_those_of_tarfile(path: str, size: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = size, 0o644, 315532800
    assert Tar().header(path, size=size, crc=0) == entry.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("archive", "command"),
    [
        (Zip, ["unzip", "-q", "x"]),
        (Zip, ["bsdtar", "-xf", "x"]),
        (Tar, ["tar", "-xf", "x"]),
        (Tar, ["bsdtar", "-xf", "x"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.__name__,
)
def test_unpackers_agree(archive: type[Archive], command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "x").write_bytes(archived(archive(), FILES))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert {path: (tmp_path / path).read_bytes() for path in FILES} == FILES
    assert {oct((tmp_path / path).stat().st_mode & 0o777) for path in FILES} == {"0o644"}


def test_the_same_files_give_the_same_bytes() -> None:
    assert archived(Zip(), FILES) == archived(Zip(), FILES)
    assert archived(Tar(), FILES) == archived(Tar(), FILES)


def test_a_zip_has_at_most_the_limit_of_files() -> None:
    archive = Zip()
    written = b"".join(archive.header(f"{number}", size=0, crc=0) for number in range(MAX_ENTRIES))
    with zipfile.ZipFile(io.BytesIO(written + archive.trailer())) as packed:
        assert len(packed.infolist()) == MAX_ENTRIES
    with pytest.raises(PermanentError, match=r"lower archive\.part_max_images"):
        archive.header("one more", size=0, crc=0)


def test_a_zip_has_at_most_the_limit_of_bytes() -> None:
    archive = Zip()
    archive.header("large", size=2**32 - 200, crc=0)
    with pytest.raises(PermanentError, match=r"archive\.part_max_bytes"):
        archive.header("larger", size=100, crc=0)


def test_a_plain_file_is_unchanged() -> None:
    assert archived(Plain(), {"images.csv": b"a,b\n"}) == b"a,b\n"

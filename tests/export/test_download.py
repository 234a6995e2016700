"""Downloading and unpacking exports, with damaged files among them."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from export import exporting
from export.exporting import StoredImage, image_bytes

from pixcrawler_worker.cli import job_status
from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import cleanup, download
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return path


def with_checksums(files: dict[str, bytes]) -> dict[str, bytes]:
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items()]
    return files | {"SHA256SUMS": "".join(lines).encode()}


def test_all_files_of_an_export_are_downloaded_and_unpacked_into_one_folder(runtime: Runtime, tmp_path: Path) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(12)])
    ref = exporting.export(runtime, job, {"archive": {"part_max_images": 5}})
    fetched = download.fetch(runtime, job_status.require(runtime.sessions, ExportView, ref.id), tmp_path / "all")
    assert {path.name: path.read_bytes() for path in fetched} == exporting.files(runtime, ref)
    progress: list[int] = []
    for path in sorted(fetched):
        if path.suffix == ".zip":
            download.unpack(path, tmp_path, wrote=progress.append)
    assert len(list(tmp_path.glob("cat/*/*.jpg"))) == 12
    assert progress[:3] == [1, 2, 3]


def test_an_expired_export_can_be_downloaded_for_another_hour(runtime: Runtime, tmp_path: Path) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(3)])
    ref = exporting.export(runtime, job)
    known = job_status.require(runtime.sessions, ExportView, ref.id)
    exporting.expire(runtime, ref)
    cleanup.clean_up(runtime, LIMITS)
    assert download.fetch(runtime, known, tmp_path / "in time")
    exporting.expire(runtime, ref, ago="61 min")
    cleanup.clean_up(runtime, LIMITS)
    with pytest.raises(
        PermanentError, match=f"export {ref.id} is gone from storage: it expired.*Export once more: .* {job} --watch"
    ):
        download.fetch(runtime, known, tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_a_failed_download_leaves_no_partial_files(runtime: Runtime, tmp_path: Path) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(12)])
    ref = exporting.export(runtime, job, {"archive": {"part_max_images": 5}})
    known = job_status.require(runtime.sessions, ExportView, ref.id)
    runtime.run(runtime.storage.put(f"exports/{ref.id}/{known.result['files'][2]}", b"damaged"))
    (tmp_path / "mine").mkdir()
    for folder, is_left in ((tmp_path / "mine", True), (tmp_path / "new", False)):
        with pytest.raises(PermanentError, match=r"is not the file that export \d+ wrote"):
            download.fetch(runtime, known, folder)
        assert folder.exists() == is_left
        assert list(tmp_path.rglob("*.zip")) == []


def test_a_folder_that_is_not_empty_is_rejected(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    for folder in (tmp_path, tmp_path / "precious"):
        with pytest.raises(PermanentError, match=r"is not empty|cannot be written"):
            download.require_empty(folder)
    download.require_empty(tmp_path / "new")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil"])
def test_nothing_is_unpacked_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "x.zip", {name: b"x"})
    (tmp_path / "in").mkdir()
    with pytest.raises(PermanentError, match="is outside of"):
        download.unpack(archive, tmp_path / "in")
    assert not list(tmp_path.rglob("evil*"))


def test_a_file_with_a_wrong_or_missing_checksum_is_rejected(tmp_path: Path) -> None:
    good = with_checksums({"a.jpg": b"a", "b.jpg": b"b"})
    assert download.unpack(zipped(tmp_path / "good.zip", good), tmp_path / "good") == 3
    for bad in (good | {"b.jpg": b"c"}, good | {"more.jpg": b"x"}):
        with pytest.raises(PermanentError, match="its SHA-256 differs from SHA256SUMS"):
            download.unpack(zipped(tmp_path / "bad.zip", bad), tmp_path / "bad")


def test_a_damaged_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(PermanentError, match=r"x\.zip is damaged"):
        download.unpack(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_is_cleared_or_removed(tmp_path: Path, *, fresh: bool) -> None:
    folder = tmp_path / "set"
    if not fresh:
        folder.mkdir()

    def write() -> None:
        (folder / "cat").mkdir()
        (folder / "cat" / "1.jpg").touch()
        (folder / "images.csv").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), download.all_or_nothing(folder):
        write()
    assert folder.exists() is not fresh
    assert fresh or not list(folder.iterdir())
    with download.all_or_nothing(folder):
        (folder / "images.csv").touch()
    assert (folder / "images.csv").exists()
    with pytest.raises(PermanentError, match="cannot be written"), download.all_or_nothing(folder / "images.csv"):
        pytest.fail("there is no such folder")

"""A job's images as a folder."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from doubles import Shelf, WatchedStorage, drive, page_of, query, start
from fakes.hosts import HostileServer, serving

from pixcrawler_worker import dataset
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.lifecycle import JobRef
from pixcrawler_worker.domain.planning import slug
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import Storage

LABELS = ("cat", "Red Panda", "../../etc/passwd", "кот", "=1+1", "CON", "a/b\\c")
CREDIT = Credit(title="=HYPERLINK(1)", author=" @evil", license="cc0-1.0", page_url="https://example.org/a, b")


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as server:
        yield server


def crawled(runtime: Runtime, host: HostileServer, labels: Sequence[str], each: int = 2, name: str = "set") -> JobRef:
    """A completed job with so many images of each label."""

    def urls(label: str) -> list[str]:
        return [host.url(f"/good/{name}-{labels.index(label)}-{number}.jpg") for number in range(each)]

    there = replace(runtime, sources={"shelf": Shelf(lambda asked: page_of(urls(asked.label), asked, CREDIT))})
    wanted = {"keywords": list(labels), "max_images": each * len(labels)}
    ref, wakes = start(there, sources=["shelf"], job=wanted)
    drive(there, wakes)
    return ref


@pytest.fixture(scope="module")
def job(runtime: Runtime, host: HostileServer) -> JobRef:
    return crawled(runtime, host, LABELS)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, str]:
    """Paths below the folder with the digests of what they hold."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "images.csv"
    }


def test_a_dataset_is_a_folder_per_label_and_a_table(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    written = dataset.write(runtime, job.id, folder)
    rows = table(folder)
    assert len(written) == len(rows) == 2 * len(LABELS)
    assert {row["file_name"]: row["sha256"] for row in rows} == files(folder)
    assert {path.name for path in folder.iterdir()} == {*(slug(label) for label in LABELS), "images.csv"}
    assert [image.label for image in written] == sorted(image.label for image in written)


def test_the_table_tells_what_is_known_of_every_image(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    written = dataset.write(runtime, job.id, tmp_path)
    row, image = table(tmp_path)[0], written[0]
    assert row["file_name"] == f"{slug(image.label)}/{image.filename}"
    assert (row["width"], row["height"], row["format"], row["source"]) == ("96", "64", "jpg", "shelf")
    assert (row["original_url"], row["file_size"]) == (image.original_url, str(image.file_size))
    assert (row["license"], row["license_url"], row["page_url"]) == ("cc0-1.0", "", "https://example.org/a, b")
    assert "storage_url" not in row
    assert "id" not in row


def test_no_cell_of_the_table_is_a_formula(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    dataset.write(runtime, job.id, tmp_path)
    rows = table(tmp_path)
    assert {row["title"] for row in rows} == {"'=HYPERLINK(1)"}
    assert {row["author"] for row in rows} == {"' @evil"}
    assert {row["label"] for row in rows} == set(LABELS) - {"=1+1"} | {"'=1+1"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("cat", "cat"),
        ("", ""),
        (None, ""),
        (7, 7),
        (-7, -7),
        ("a=b", "a=b"),
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        ("  =1", "'  =1"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff20a", "'\uff20a"),
    ],
)
def test_a_cell_is_text_to_every_spreadsheet(value: object, shown: object) -> None:
    assert dataset.cell(value) == shown


def test_progress_is_told_file_by_file(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    told: list[int] = []
    dataset.write(runtime, job.id, tmp_path, wrote=told.append)
    assert told == list(range(1, 2 * len(LABELS) + 1))


def test_an_image_that_is_missing_in_storage_is_left_out(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, host, ["cat"], each=4, name="missing")
    ((url,),) = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id LIMIT 1", id=ref.id)
    runtime.run(runtime.storage.delete([runtime.storage.key(url)]))
    written = dataset.write(runtime, ref.id, tmp_path)
    assert len(written) == len(table(tmp_path)) == len(files(tmp_path)) == 3
    assert url not in {image.storage_url for image in written}


def test_a_job_without_images_has_an_empty_table(runtime: Runtime, tmp_path: Path) -> None:
    assert dataset.write(runtime, 2**30, tmp_path) == []
    assert table(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["images.csv"]


def test_a_folder_with_something_in_it_is_refused(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(PermanentError, match="is not empty: name a folder that is, or does not exist yet"):
        dataset.write(runtime, job.id, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_written_is_named(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PermanentError, match=f"{folder} cannot be written"):
            dataset.write(runtime, job.id, folder)


def test_a_file_that_cannot_be_written_is_one_error(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    def in_the_way(_key: str) -> None:
        (tmp_path / "cat").touch()

    watched = replace(runtime, storage=WatchedStorage(runtime, get=in_the_way))
    with pytest.raises(PermanentError, match="cannot be written"):
        dataset.write(watched, job.id, tmp_path)


def test_a_storage_in_trouble_is_one_error(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    def away(_key: str) -> None:
        raise TransientError("the storage is away")

    with pytest.raises(TransientError, match="the storage is away"):
        dataset.write(replace(runtime, storage=WatchedStorage(runtime, get=away)), job.id, tmp_path)


def test_images_in_another_storage_are_told_of(runtime: Runtime, job: JobRef, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="does not lie in the configured storage"):
        dataset.write(replace(runtime, storage=Storage("memory://")), job.id, tmp_path)

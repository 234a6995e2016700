"""What is published of several archives when some have no images: their files are gone."""

import json

import pytest
from doubles import query
from export import exporting
from export.exporting import StoredImage, crawl_of, export, image_bytes, stored_images

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_else")

ONE_EACH = {"archive": {"part_max_images": 1}}


def lose_first(runtime: Runtime, job: int) -> None:
    """Delete the file of the image that is first in an export without splits."""
    order = "SELECT i.storage_url FROM images i JOIN pixcrawler.image_facts f ON f.image_id = i.id"
    (url, *_) = query(runtime, f"{order} WHERE i.crawl_job_id = :id ORDER BY f.sha256 LIMIT 1", id=job)[0]
    runtime.run(runtime.storage.delete([runtime.storage.key(url)]))


def published(runtime: Runtime, ref: JobRef) -> dict[str, bytes]:
    """Return the files of an export as they are when its archives are unpacked next to the others."""
    names = exporting.row(runtime, ref).export_options["result"]["files"]
    found = exporting.files(runtime, ref)
    together = {name: found[name] for name in names if not name.endswith(".zip")}
    for name in names:
        if name.endswith(".zip"):
            together |= exporting.unzipped(found[name])
    return together


def test_every_class_has_a_folder_in_every_split(runtime: Runtime) -> None:
    labels = ("ant", "bee", "cat", "dog", "emu", "fox")
    job = crawl_of(runtime, [StoredImage(image_bytes(at), label=label) for at, label in enumerate(labels)])
    splits = {"ratios": {"train": 0.5, "val": 0.5}}
    ref = export(runtime, job, {"layout": "yolo", "splits": splits, **ONE_EACH})
    for part in exporting.row(runtime, ref).export_options["result"]["parts"]:
        (path,) = [
            path for path in exporting.unzipped(exporting.files(runtime, ref)[part["name"]]) if path.endswith(".jpg")
        ]
        ((url,),) = query(
            runtime, "SELECT storage_url FROM images WHERE filename = :name", name=path.rpartition("/")[2]
        )
        body = runtime.run(runtime.storage.get(runtime.storage.key(url)))
        runtime.run(runtime.storage.delete([runtime.storage.key(url)]))
        found = published(runtime, export(runtime, job, {"layout": "yolo", "splits": splits, **ONE_EACH}))
        folders = {tuple(path.split("/")[:2]) for path in found if path.count("/") == 2}
        assert folders == {(split, class_folder(label)) for split in splits["ratios"] for label in labels}
        runtime.run(runtime.storage.put(runtime.storage.key(url), body))


def test_only_classes_that_have_images_are_counted(runtime: Runtime) -> None:
    job = crawl_of(runtime, [StoredImage(image_bytes(at), label=f"class {at}") for at in range(3)])
    lose_first(runtime, job)
    found = published(runtime, export(runtime, job))
    assert b"\n2 images of 2 classes, " in found["README.md"]
    assert json.loads(found["croissant.json"])["description"].startswith("2 images of 2 classes: class ")
    together = published(runtime, export(runtime, job, ONE_EACH))
    assert b"\n2 images of 2 classes, " in together["README.md"]
    assert b"\n1 images of 1 class, " in together["README-part-00002.md"]


def test_tasks_have_their_labeling_configuration(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    lose_first(runtime, job)
    found = published(runtime, export(runtime, job, {"layout": "label_studio", **ONE_EACH}))
    assert "label_config.xml" in found


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_one_archive_that_is_left_of_several_is_described_like_several(runtime: Runtime, layout: str) -> None:
    job = crawl_of(runtime, stored_images(2))
    lose_first(runtime, job)
    ref = export(runtime, job, {"layout": layout, **ONE_EACH})
    found = published(runtime, ref)
    assert b"part 2 of 2" in found["README-part-00001.md"]
    assert b"part" not in found["README.md"].partition(b"Layout")[0]
    assert {"dataset.html", "manifest.json"} <= set(found)
    row = exporting.row(runtime, ref)
    assert row.download_url == runtime.storage.url(f"exports/{ref.id}/manifest.json")
    assert [part["images"] for part in row.export_options["result"]["parts"]] == [1]

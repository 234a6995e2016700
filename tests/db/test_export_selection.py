"""The sizes of archives follow from what images become, not from what they are."""

from collections import Counter
from typing import Any

import ledger
import pytest
from export import exporting
from export.exporting import StoredImage, crawl_of, export, image_bytes
from validate import validation_jobs

from pixcrawler_worker.runtime import Runtime

MAX_BYTES = 1_000_000


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.mark.parametrize("format_", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize(
    "resize",
    [
        {"mode": "pad", "size": 500},
        {"mode": "pad", "size": 500, "only_shrink": False},
        {"mode": "fit", "size": 500, "only_shrink": False},
        {"mode": "cover", "size": 500, "only_shrink": False},
        {"mode": "shortest", "size": 300, "only_shrink": False},
    ],
)
def test_an_archive_of_images_that_become_larger_does_not_exceed_its_limit(
    runtime: Runtime, resize: dict[str, Any], format_: str
) -> None:
    job = crawl_of(runtime, [StoredImage(image_bytes(number, size=(160, 60), quality=20)) for number in range(14)])
    options = {
        "layout": "flat",
        "image": {"format": format_, "resize": resize},
        "archive": {"part_max_bytes": MAX_BYTES},
        "extras": {"html_report": False},
    }
    parts = exporting.row(runtime, export(runtime, job, options)).export_options["result"]["parts"]
    assert sum(part["images"] for part in parts) == 14
    # One image may be larger by itself.
    assert all(part["size"] <= MAX_BYTES or part["images"] == 1 for part in parts)


def test_what_is_around_an_image_is_not_taken_for_an_image(runtime: Runtime) -> None:
    job = crawl_of(runtime, [StoredImage(image_bytes(number, size=(160, 60))) for number in range(14)])
    image = {"format": "jpg", "resize": {"mode": "pad", "size": 500}}
    options = {"layout": "flat", "image": image, "archive": {"part_max_bytes": MAX_BYTES}}
    parts = exporting.row(runtime, export(runtime, job, options)).export_options["result"]["parts"]
    assert len(parts) <= 2


@pytest.mark.parametrize(
    ("format_", "layout"),
    [("tar", "webdataset"), ("tar", "imagefolder"), ("zip", "imagefolder"), ("zip", "coco"), ("zip", "label_studio")],
)
def test_an_archive_of_tiny_images_does_not_exceed_its_limit(runtime: Runtime, format_: str, layout: str) -> None:
    stored = [StoredImage(image_bytes(number, size=(32, 32), quality=20)) for number in range(350)]
    options = {"layout": layout, "archive": {"part_max_bytes": MAX_BYTES}, "extras": {"html_report": False}}
    ref = export(runtime, crawl_of(runtime, stored), options, format_=format_)
    sizes = [part["size"] for part in exporting.row(runtime, ref).export_options["result"]["parts"]]
    assert len(sizes) <= 3, "nor is it much smaller"
    assert max(sizes) <= MAX_BYTES


def test_each_class_keeps_its_ratios_when_its_images_look_like_those_of_another(runtime: Runtime) -> None:
    stored = [
        StoredImage(image_bytes(number, quality=quality), label=label)
        for label, quality in (("cat", 95), ("dog", 75))
        for number in range(20)
    ]
    job = crawl_of(runtime, stored)
    validation_jobs.validate(runtime, job, {"checks": {"near_duplicate": True}})
    splits = {"ratios": {"train": 0.5, "test": 0.5}, "by": "image", "stratify": "label"}
    rows = exporting.metadata_rows(exporting.made(runtime, export(runtime, job, {"splits": splits})))
    assert sum("near_duplicate" in row["flags"] for row in rows) == 20
    found = Counter((row["label"], row["split"]) for row in rows)
    assert found == dict.fromkeys([("cat", "train"), ("cat", "test"), ("dog", "train"), ("dog", "test")], 10)

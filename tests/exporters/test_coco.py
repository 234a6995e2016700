import json
from typing import Any

from layout_samples import EMOJI, LABELS, SPLITS, archives, dataset, sample, write

from pixcrawler_worker.exporters.coco import Coco


def documents(splits: tuple[str, ...], parts: int) -> dict[str, Any]:
    return {
        path: json.loads(body)
        for described, samples in archives(Coco, splits=splits, parts=parts)
        for path, body in write(Coco, described, samples).files.items()
        if path.startswith("annotations/")
    }


def test_there_is_a_file_per_split_and_archive() -> None:
    assert list(documents((), 1)) == ["annotations/instances_all.json"]
    assert list(documents(SPLITS, 1)) == [f"annotations/instances_{split}.json" for split in SPLITS]
    several = documents(SPLITS, 2)
    assert list(several) == [f"annotations/instances_{s}-part-0000{part}.json" for part in (0, 1) for s in SPLITS]


def test_an_image_has_one_annotation_around_the_whole_image() -> None:
    image = sample(4, label="dog", license="cc0-1.0", license_url="https://x/0")
    written = write(Coco, dataset(labels=["cat", "dog"]), [image])
    assert json.loads(written.files["annotations/instances_all.json"]) == {
        "info": {"description": "Ada's cats"},
        "images": [
            {
                "id": 1,
                "file_name": f"{image.stem}.jpg",
                "width": 12,
                "height": 8,
                "license": 1,
                "coco_url": "https://images.example/4.jpg",
                "date_captured": "2026-01-02T03:04:05Z",
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [0, 0, 12, 8],
                "area": 96,
                "iscrowd": 0,
                "segmentation": [],
            }
        ],
        "licenses": [{"id": 1, "name": "cc0-1.0", "url": "https://x/0"}],
        "categories": [
            {"id": 1, "name": "cat", "supercategory": ""},
            {"id": 2, "name": "dog", "supercategory": ""},
        ],
    }


def test_ids_are_the_same_in_all_files_and_refer_to_the_images() -> None:
    found = documents(SPLITS, 3)
    categories = [(number, label) for number, label in enumerate(LABELS, start=1)]
    images = [image for document in found.values() for image in document["images"]]
    assert len({image["id"] for image in images}) == len(images) == 42
    assert len({image["file_name"] for image in images}) == 42
    for document in found.values():
        assert [(category["id"], category["name"]) for category in document["categories"]] == categories
        assert [note["image_id"] for note in document["annotations"]] == [image["id"] for image in document["images"]]
        licenses = {license_["id"] for license_ in document["licenses"]}
        assert {image["license"] for image in document["images"]} <= licenses
    notes = [note["id"] for document in found.values() for note in document["annotations"]]
    assert len(set(notes)) == 42
    assert 0 not in notes


def test_file_names_are_relative_to_the_folder_of_images() -> None:
    ((described, samples), *_) = archives(Coco, splits=(), parts=2)
    written = write(Coco, described, samples)
    document = json.loads(written.files["annotations/instances_all-part-00000.json"])
    assert [f"images/{image['file_name']}" for image in document["images"]] == list(written.names)
    assert list(written.images) == list(written.names)


def test_every_class_is_a_category_with_its_unchanged_name() -> None:
    (document,) = documents((), 1).values()
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert EMOJI in names.values()
    assert {"Cat", "cat", "../x", 'a "b" & <c>'} <= set(names.values())
    assert [names[note["category_id"]] for note in document["annotations"]] == [LABELS[n % 7] for n in range(42)]


def test_images_share_their_license_and_those_without_have_an_empty_one() -> None:
    images = [sample(0), sample(1, license="", license_url=""), sample(2)]
    document = json.loads(write(Coco, dataset(), images).files["annotations/instances_all.json"])
    assert [image["license"] for image in document["images"]] == [1, 2, 1]
    assert [license_["name"] for license_ in document["licenses"]] == ["cc-by-4.0", ""]


def test_merged_annotations_of_several_archives_keep_the_license_of_each_image() -> None:
    merged: dict[str, list[dict[str, object]]] = {"images": [], "licenses": []}
    names = ("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0")
    for part in range(2):
        samples = [sample(at, license=names[at]) for at in (2 * part, 2 * part + 1)]
        written = write(Coco, dataset(part=part, parts=2), samples).files
        document = json.loads(written[f"annotations/instances_all-part-{part:05d}.json"])
        for name, found in merged.items():
            found.extend(document[name])
    licenses = {one["id"]: one["name"] for one in merged["licenses"]}
    assert len(licenses) == len(merged["licenses"])
    assert tuple(licenses[image["license"]] for image in merged["images"]) == names


def test_a_split_without_images_has_a_file_without_images() -> None:
    files = write(Coco, dataset(splits=["train", "val"]), [sample(0, split="train")]).files
    document = json.loads(files["annotations/instances_val.json"])
    assert (document["images"], document["annotations"], len(document["categories"])) == ([], [], len(LABELS))

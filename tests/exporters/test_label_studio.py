import json
from xml.etree import ElementTree as ET

from layout_samples import EMOJI, LABELS, archives, dataset, sample, write

from pixcrawler_worker.exporters.label_studio import LabelStudio


def test_a_task_shows_the_image_from_its_source_url_and_predicts_its_class() -> None:
    image = sample(3, label=EMOJI)
    written = write(LabelStudio, dataset(), [image])
    (task,) = json.loads(written.files["tasks.json"])
    assert task["data"]["image"] == "https://images.example/3.jpg"
    assert task["data"]["file_name"] == written.names[0] == f"images/{image.stem}.jpg"
    assert {name: task["data"][name] for name in image.row} == image.row
    (prediction,) = task["predictions"]
    assert prediction["result"] == [
        {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [EMOJI]}}
    ]


def test_an_image_without_a_source_url_is_served_by_label_studio() -> None:
    written = write(LabelStudio, dataset(), [sample(3, source_url="")])
    (task,) = json.loads(written.files["tasks.json"])
    assert task["data"]["image"] == f"/data/local-files/?d={written.names[0]}"


def test_the_configuration_has_the_names_and_choices_that_tasks_use() -> None:
    root = ET.fromstring(write(LabelStudio, dataset(), [sample(0)]).files["label_config.xml"])
    (image,), (choices,) = root.findall("Image"), root.findall("Choices")
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    assert (choices.get("name"), choices.get("toName"), choices.get("choice")) == ("choice", "image", "single")
    assert tuple(choice.get("value") for choice in choices) == LABELS


def test_several_archives_have_tasks_each_and_one_configuration() -> None:
    files: dict[str, bytes] = {}
    for described, samples in archives(LabelStudio, splits=(), parts=3):
        files |= write(LabelStudio, described, samples).files
    names = [f"tasks-part-0000{part}.json" for part in range(3)]
    assert sorted(path for path in files if "/" not in path) == ["label_config.xml", *names]
    tasks = [task for name in names for task in json.loads(files[name])]
    assert len({task["data"]["file_name"] for task in tasks}) == 42


def test_without_images_there_are_no_tasks() -> None:
    assert json.loads(write(LabelStudio, dataset(), []).files["tasks.json"]) == []

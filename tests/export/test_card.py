"""The dataset card: its front matter is read as YAML."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from pixcrawler_worker.domain.labels import file_labels
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.domain.tables import COLUMNS, cell
from pixcrawler_worker.export import card, options
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters import protocol

#: All that YAML may take for something else.
LABELS = (
    "cat",
    "null",
    "yes",
    "1",
    "1:30",
    "a: b",
    "- c",
    "#d",
    'e"\\',
    "\x7f\x85\x9f",
    "\u2028\u2029\ufeff",
    "\ufffe",
    "\N{CAT FACE}",
    "e\u0301",
    "=1+1",
)


def front(
    layout: str,
    labels: Sequence[str] = LABELS,
    *,
    name: str = "My cats",
    licenses: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> Mapping[str, Any]:
    parsed = options.parse({"layout": layout})
    plan = Plan(
        crawl_job_id=1,
        name=name,
        format=parsed.default_format(),
        options=parsed,
        layout=protocol.load(layout),
        layout_name=layout,
        labels=tuple(file_labels(labels).values()),
        splits=tuple(splits),
        default_label="cat",
        crawl_ended_at=datetime.now(UTC),
    )
    summary = Summary(licenses=Counter(licenses), splits=Counter(splits))
    lines = card.write(plan, summary).split("\n")
    assert lines[0] == "---"
    found = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    assert isinstance(found, dict)
    return found


def names(features: list[dict[str, Any]]) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    (classes,) = [one["dtype"]["class_label"]["names"] for one in features if isinstance(one.get("dtype"), dict)]
    assert list(classes) == [str(number) for number in range(len(classes))]
    return list(classes.values())


@pytest.mark.parametrize("layout", ["imagefolder", "flat", "parquet", "table", "webdataset"])
def test_the_columns_are_declared_with_their_classes(layout: str) -> None:
    found = front(layout)
    features = found["dataset_info"]["features"]
    assert names(features) == [cell(one) if layout == "table" else one for one in file_labels(LABELS).values()]
    (config,) = found["configs"]
    assert config.get("features", features) == features
    # A reader without this option would warn of it.
    assert ("features" in config) == (layout != "webdataset")
    assert config.get("keep_default_na") == (False if layout == "table" else None)
    columns = {one["name"] for one in features}
    if layout == "webdataset":
        assert columns == {"jpg", "cls", "json", "__key__", "__url__"}
        (row,) = [one["struct"] for one in features if one["name"] == "json"]
        assert [one["name"] for one in row] == list(COLUMNS)
    else:
        assert columns - {"image"} >= set(COLUMNS) - {"file_name"}


@pytest.mark.parametrize("layout", ["coco", "yolo", "label_studio", "tfrecord"])
def test_a_layout_that_hugging_face_does_not_read_declares_nothing(layout: str) -> None:
    assert not {"configs", "dataset_info"} & set(front(layout))


def test_so_many_classes_that_reading_them_takes_long_are_left_out() -> None:
    assert "dataset_info" not in front("imagefolder", [f"{number:05}" for number in range(10_001)])


@pytest.mark.parametrize("name", LABELS)
def test_any_name_is_read_as_its_safe_text(name: str) -> None:
    assert front("imagefolder", name=name)["pretty_name"] == safe(name)


@pytest.mark.parametrize(
    ("licenses", "named"),
    [
        (["cc0-1.0"], "cc0-1.0"),
        (["cc-by-2.0"], "cc-by-2.0"),
        (["cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0"], "cc-by-nc-nd-4.0"),
        # The hub has no identifiers for these, and shows an error in place of the card.
        (["cc-by-sa-2.0"], "cc"),
        (["cc-by-nd-2.0"], "cc"),
        (["cc-by-3.0-de"], "cc"),
        (["cc-by"], "cc"),
        (["cc-pdm-1.0"], "other"),
        (["public-domain"], "other"),
        (["licenseref-unsplash"], "other"),
        (["cc0-1.0", "cc-by-2.0"], "other"),
        (["cc0-1.0", ""], "other"),
        ([], "other"),
    ],
)
def test_the_license_is_one_that_the_hub_knows(licenses: Sequence[str], named: str) -> None:
    assert front("imagefolder", licenses=licenses)["license"] == named


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset"])
def test_no_split_has_the_name_that_stands_for_all_of_them(layout: str) -> None:
    (config,) = front(layout, splits=("train", "all"))["configs"]
    # With `all`, `datasets` opens nothing.
    assert [one["split"] for one in config["data_files"]] == ["train", "all_images"]
    assert "all" in config["data_files"][1]["path"].replace("/", "-").split("-")

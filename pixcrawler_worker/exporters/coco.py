"""COCO's JSON beside the images: one annotation for each, of its class, around all of it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.exporters.one_folder import ROOT, Images
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

#: What the images of a dataset without splits are filed under.
_ALL = "all"
#: Numbers that each archive has for its images: more than it may have images.
_PER_PART = 1_000_000


class Coco(Layout):
    """`images/<file>` and `annotations/instances_<split>.json`, or `instances_all.json` without splits.

    `file_name` is relative to `images/`, the root that torchvision's CocoDetection and pycocotools' users pass. Numbers
    of images and categories are the same in all archives of an export, so that their files can be joined; they begin
    with 1, because pycocotools takes an annotation with the number 0 for none.
    """

    summary: ClassVar[str] = "images with COCO annotations: pycocotools, torchvision, Detectron2, FiftyOne"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._images = Images(dataset)
        self._categories = {label: number for number, label in enumerate(dataset.labels, start=1)}
        self._licenses: dict[tuple[Value, Value], int] = {}
        self._last = dataset.part * _PER_PART
        self._files = {split: _Annotations(dataset.name) for split in dataset.splits or (_ALL,)}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the image's path, and the image."""
        path = self._images.path(sample)
        self._last += 1
        row = sample.row
        image = {
            "id": self._last,
            "file_name": path.removeprefix(f"{ROOT}/"),
            "width": sample.width,
            "height": sample.height,
            "license": self._licenses.setdefault((row["license"], row["license_url"]), len(self._licenses) + 1),
            "coco_url": row["source_url"],
            "date_captured": row["crawled_at"],
        }
        annotation = {
            "id": self._last,
            "image_id": self._last,
            "category_id": self._categories[sample.label],
            "bbox": [0, 0, sample.width, sample.height],
            "area": sample.width * sample.height,
            "iscrowd": 0,
            "segmentation": [],
        }
        self._files[sample.split or _ALL].add(image, annotation)
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return the annotations, one file for each split."""
        part = f"-part-{self._dataset.part:05d}" if self._dataset.parts > 1 else ""
        for split, file in self._files.items():
            yield Entry(f"annotations/instances_{split}{part}.json", file.finish(self._licenses, self._categories))


class _Annotations:
    """One JSON file: its images are written at once, and the annotations behind them when there are no more."""

    def __init__(self, name: str) -> None:
        self._written, self._annotations = Spool(), Spool()
        self._written.write(b'{"info": %s,\n"images": [' % _json({"description": name}))
        self._separator = b"\n"

    def add(self, image: Mapping[str, object], annotation: Mapping[str, object]) -> None:
        self._written.write(self._separator + _json(image))
        self._annotations.write(self._separator + _json(annotation))
        self._separator = b",\n"

    def finish(self, licenses: Mapping[tuple[Value, Value], int], categories: Mapping[str, int]) -> Spool:
        file = self._written
        file.write(b'],\n"annotations": [')
        for block in self._annotations.blocks():
            file.write(block)
        file.write(b'],\n"licenses": [')
        _write(file, ({"id": number, "name": name, "url": url} for (name, url), number in licenses.items()))
        file.write(b'],\n"categories": [')
        _write(file, ({"id": number, "name": label, "supercategory": ""} for label, number in categories.items()))
        file.write(b"]}\n")
        return file


def _write(file: Spool, rows: Iterable[Mapping[str, object]]) -> None:
    separator = b"\n"
    for row in rows:
        file.write(separator + _json(row))
        separator = b",\n"


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

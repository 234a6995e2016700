"""Images with COCO annotations: one per image, with its class and a box around the whole image, and captions."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.list_columns import TEXT
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.exporters.one_folder import ROOT, Images
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

#: The name in place of a split in a dataset that is not split.
_ALL = "all"
#: Range of the ids of images and licenses of each archive; larger than the limit of images in an archive.
_IDS_PER_PART = 1_000_000


class Coco(Layout):
    """`images/<file>` and `annotations/instances_<split>.json`, or `instances_all.json` without splits.

    `file_name` is relative to `images/`, which is the root to pass to torchvision's CocoDetection. Ids of images,
    licenses and categories are unique across the archives of an export, so that their annotations can be merged. They
    begin with 1, because pycocotools treats the annotation id 0 as no match.

    Where an image of the dataset has a caption, `annotations/captions_<split>.json` has all images, and an annotation
    for each caption. Columns of URL lists are in `attributes` of the images.
    """

    summary: ClassVar[str] = "images with COCO annotations: pycocotools, torchvision, Detectron2, FiftyOne"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._images = Images(dataset)
        self._categories = {label: number for number, label in enumerate(dataset.labels, start=1)}
        self._licenses: dict[tuple[Value, Value], int] = {}
        self._before = self._last = dataset.part * _IDS_PER_PART
        splits = dataset.splits or (_ALL,)
        self._files = {split: _Annotations(dataset.name) for split in splits}
        self._captions = {split: _Annotations(dataset.name) for split in splits if TEXT in dataset.columns}
        self._attributes = [name for name in dataset.columns if name != TEXT]

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the path of the image, and the image."""
        path = self._images.path(sample)
        self._last += 1
        row = sample.row
        image = {
            "id": self._last,
            "file_name": path.removeprefix(f"{ROOT}/"),
            "width": sample.width,
            "height": sample.height,
            "license": self._license(row),
            "coco_url": row["source_url"],
            "date_captured": row["crawled_at"],
        }
        if self._attributes:
            image["attributes"] = {name: row[name] for name in self._attributes}
        annotation = {
            "id": self._last,
            "image_id": self._last,
            "category_id": self._categories[sample.label],
            "bbox": [0, 0, sample.width, sample.height],
            "area": sample.width * sample.height,
            "iscrowd": 0,
            "segmentation": [],
        }
        split = sample.split or _ALL
        self._files[split].add(image, annotation)
        if split in self._captions:
            caption = {"id": self._last, "image_id": self._last, "caption": row[TEXT]} if row[TEXT] else None
            self._captions[split].add(image, caption)
        return path, iter([Entry(path, sample.body)])

    def _license(self, row: Mapping[str, Value]) -> int:
        """Return the id of the license of an image."""
        return self._licenses.setdefault((row["license"], row["license_url"]), self._before + len(self._licenses) + 1)

    def close(self) -> Iterator[Entry]:
        """Return the annotations, one file per split."""
        part = f"-part-{self._dataset.part:05d}" if self._dataset.parts > 1 else ""
        for split, file in self._files.items():
            yield Entry(f"annotations/instances_{split}{part}.json", file.finish(self._licenses, self._categories))
        for split, file in self._captions.items():
            yield Entry(f"annotations/captions_{split}{part}.json", file.finish(self._licenses))


class _Annotations:
    """One JSON file: the images are written immediately, the annotations after the last image."""

    def __init__(self, name: str) -> None:
        self._written, self._annotations = Spool(), Spool()
        self._written.write(b'{"info": %s,\n"images": [' % _json({"description": name}))
        self._separator = self._annotation_separator = b"\n"

    def add(self, image: Mapping[str, object], annotation: Mapping[str, object] | None) -> None:
        self._written.write(self._separator + _json(image))
        self._separator = b",\n"
        if annotation is not None:
            self._annotations.write(self._annotation_separator + _json(annotation))
            self._annotation_separator = b",\n"

    def finish(self, licenses: Mapping[tuple[Value, Value], int], categories: Mapping[str, int] | None = None) -> Spool:
        file = self._written
        file.write(b'],\n"annotations": [')
        for block in self._annotations.blocks():
            file.write(block)
        file.write(b'],\n"licenses": [')
        _write(file, ({"id": number, "name": name, "url": url} for (name, url), number in licenses.items()))
        if categories is not None:
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

"""Tar shards that are read sequentially, for webdataset and Hugging Face's webdataset."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pixcrawler_worker.domain.list_columns import TEXT, ColumnType
from pixcrawler_worker.exporters import features
from pixcrawler_worker.exporters.protocol import Dataset, Entry, ExportFormat, Feature, Layout, Sample


class WebDataset(Layout):
    """`<stem>.jpg`, `<stem>.cls` and `<stem>.json` per image, all classes mixed in the order of their hashes.

    Where an image of the dataset has a caption, each has a `<stem>.txt`: readers need the same files of all.
    """

    summary: ClassVar[str] = "tar shards to stream: webdataset, Hugging Face webdataset"
    export_formats: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.TAR})
    # Readers infer the columns from the first samples, so all images need the same extension.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg",)
    split_per_part: ClassVar[bool] = True
    files_per_image: ClassVar[int] = 3
    features_are_options: ClassVar[bool] = False

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._classes = {label: str(number).encode() for number, label in enumerate(dataset.labels)}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name of the image, and its files."""
        name = f"{sample.stem}.{sample.extension}"
        row = json.dumps({"file_name": name, **sample.row}, ensure_ascii=False)
        entries = [
            Entry(name, sample.body),
            Entry(f"{sample.stem}.cls", self._classes[sample.label]),
            Entry(f"{sample.stem}.json", row.encode()),
        ]
        if TEXT in self._dataset.columns:
            entries.append(Entry(f"{sample.stem}.txt", str(sample.row[TEXT]).encode()))
        return name, iter(entries)

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the pattern of the shards of a split."""
        return f"{split or 'train'}-*.tar"

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the files of an image, and what the reader adds."""
        rows = {**features.of_tables(labels), "label": "string"}
        return {"jpg": "image", "cls": labels, "json": rows, "__key__": "string", "__url__": "string"}

    @staticmethod
    def with_columns(features: Mapping[str, Feature], columns: Mapping[str, ColumnType]) -> Mapping[str, Feature]:
        """Return the files of an image, with the one of its caption, and the columns in its JSON."""
        rows = features["json"]
        assert isinstance(rows, Mapping)
        files: dict[str, Feature] = {"jpg": features["jpg"], "cls": features["cls"], "json": {**rows, **columns}}
        if TEXT in columns:
            files["txt"] = "string"
        # In the order in which the reader has them.
        return {**files, "__key__": features["__key__"], "__url__": features["__url__"]}

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return a path without a dot in the file name, which readers ignore."""
        return f"__meta__/{name.replace('.', '-')}"

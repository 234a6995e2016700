"""Columns of datasets for Hugging Face."""

from collections.abc import Mapping, Sequence

from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS
from pixcrawler_worker.exporters.protocol import Feature


def of_tables(labels: Sequence[str]) -> Mapping[str, Feature]:
    """Return the columns of the dataset's tables, with `label` as one of the classes."""
    types: dict[str, Feature] = {name: "int64" if name in NUMBERS else "string" for name in COLUMNS}
    return {**types, "label": labels}


def of_folders(labels: Sequence[str]) -> Mapping[str, Feature]:
    """Return the columns of a folder of images with metadata, whose `file_name` is read as the image."""
    found = dict(of_tables(labels))
    del found["file_name"]
    return {"image": "image", **found}

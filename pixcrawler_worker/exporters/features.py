"""Columns of datasets for Hugging Face."""

from collections.abc import Mapping, Sequence

from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS
from pixcrawler_worker.exporters.folders import never_timestamp
from pixcrawler_worker.exporters.protocol import Feature


def of_tables(labels: Sequence[str]) -> Mapping[str, Feature]:
    """Return the columns of the dataset's tables, with `label` as one of the classes."""
    types: dict[str, Feature] = {name: "int64" if name in NUMBERS else "string" for name in COLUMNS}
    return {**types, "label": labels}


def of_folders(labels: Sequence[str]) -> Mapping[str, Feature]:
    """Return the columns of a folder of images with metadata, whose `file_name` is read as the image."""
    found = dict(of_tables(tuple(_as_in_metadata(label) for label in labels)))
    del found["file_name"]
    return {"image": "image", **found}


def _as_in_metadata(label: str) -> str:
    """Return a class as Hugging Face looks for it: by the text in the metadata, then without spaces around it."""
    written = never_timestamp(label)
    return label if written.strip() == label else written

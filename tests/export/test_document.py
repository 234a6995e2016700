"""docs/export.md against the code that it describes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pixcrawler_worker.domain.tables import COLUMNS
from pixcrawler_worker.export.options import ExportOptions, Resize
from pixcrawler_worker.exporters import protocol

DOCUMENT = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
#: Keys whose default is no value that a table could show.
WORDS = {"all", "none"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields(type(default), f"{prefix}{name}.")
        elif prefix + name != "version":
            yield prefix + name, default


def test_every_option_is_documented_with_its_default() -> None:
    documented: dict[str, str] = {}
    for names, default, _ in rows("Options"):
        for name in re.findall(r"`([^`]+)`", names):
            documented[name] = default
    known = dict(fields(ExportOptions))
    assert set(documented) == set(known)
    for name, default in documented.items():
        if default in WORDS:
            assert known[name] is None
        else:
            assert json.loads(default.strip("`")) == json.loads(json.dumps(known[name]))


def test_every_resize_mode_is_documented() -> None:
    (row,) = [row for row in rows("Options") if row[0] == "`image.resize`"]
    for mode in Resize.model_json_schema()["properties"]["mode"]["enum"]:
        assert f"`{mode}`" in row[2]


def test_every_layout_is_documented_with_its_formats() -> None:
    documented = {names.strip("`"): set(re.findall(r"zip|tar|csv", formats)) for names, formats, _ in rows("Layouts")}
    assert documented == {name: set(protocol.load(name).export_formats) for name in protocol.LAYOUTS.installed()}


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_documented(column: str) -> None:
    assert f"`{column}`" in DOCUMENT.split("\n## Columns\n")[1].split("\n## ")[0]

"""The recipes of docs/recipes.md, each on the folder that `pixcrawler build` leaves."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from building import working
from export import exporting
from export.exporting import StoredImage, image_bytes
from split_names import splits_in

from pixcrawler_worker.cli import delivery, export_arguments, job_status
from pixcrawler_worker.cli.delivery import Delivery
from pixcrawler_worker.cli.export_arguments import ExportArguments
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.runtime import Runtime

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
IMAGES = {"cat": 12, "steam train": 8}
#: What a library needs that a recipe does not import by name.
NEEDS = {"CocoDetection": "pycocotools", "keras": "tensorflow"}
#: Printed after a recipe: what it found.
REPORT = """
import collections, json

def counted(rows, names):
    numbers = (row.get("label", row.get("cls")) for row in rows)
    return collections.Counter(number if isinstance(number, str) else names[number] for number in numbers)

found = {name: globals().get(name) for name in ("names", "folders")}
if "numbers" in globals():
    found["numbers"] = collections.Counter(map(int, numbers))
if "batches" in globals():
    found["numbers"] = collections.Counter(number for batch in batches for number in batch.tolist())
tables = [globals()[name] for name in ("dataset", "train", "test") if name in globals()]
tables = [one for one in tables if type(one).__name__ == "Dataset" and hasattr(one, "features")]
if tables:
    columns = [one.remove_columns({"image", "jpg"} & set(one.features)) for one in tables]
    found["counts"] = sum((counted(one, found["names"] or found["folders"]) for one in columns), collections.Counter())
if "table" in globals():
    found["counts"] = dict(table["label"].value_counts())
print("\\n" + json.dumps(found, default=int))
"""


@dataclass(frozen=True)
class Recipe:
    """A block of code, below the command that makes its folder."""

    heading: str
    command: str
    code: str


def recipes() -> Iterator[Recipe]:
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            first, _, code = block.partition("\n")
            if first.startswith("# pixcrawler build "):
                yield Recipe(heading, first.removeprefix("# "), code)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("keywords", nargs=-1)
@click.option("--out")
@export_arguments.add_options
def parsed(given: ExportArguments, keywords: tuple[str, ...], out: str) -> Delivery:
    """The options of an export in a documented command."""
    assert (keywords, out) == (tuple(IMAGES), "cats")
    return Delivery(*export_arguments.parse(given))


class Builds:
    """Folders as `pixcrawler build` leaves them, one for each command."""

    def __init__(self, runtime: Runtime, place: Path) -> None:
        self._runtime, self._place = runtime, place
        stored = [
            StoredImage(image_bytes(100 * at + number), label=label)
            for at, (label, count) in enumerate(IMAGES.items())
            for number in range(count)
        ]
        job_id = exporting.crawl_of(runtime, stored, name="steam train", keywords=list(IMAGES))
        self._job = job_status.require(runtime.sessions, CrawlView, job_id)
        self.folder = cache(self._folder)

    def _folder(self, command: str) -> Path:
        """Return the directory in which the folder `cats` is."""
        program, name, *words = shlex.split(command)
        assert (program, name) == ("pixcrawler", "build")
        place = self._place / re.sub(r"\W+", "-", command)
        given = parsed.main(words, standalone_mode=False)
        with working(self._runtime):
            assert delivery.deliver(self._runtime, self._job, place / "cats", given, resume="")
        return place


@pytest.fixture(scope="module")
def builds(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds(runtime, tmp_path_factory.mktemp("builds"))


def run(code: str, place: Path, cache_folder: Path) -> dict[str, Any]:
    """Run a recipe in a process of its own, offline, and return what it found."""
    env = {
        **os.environ,
        "HF_HOME": str(cache_folder),
        "HF_HUB_OFFLINE": "1",
        "YOLO_CONFIG_DIR": str(cache_folder),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "FIFTYONE_DATABASE_DIR": str(cache_folder / "fiftyone"),
        "FIFTYONE_DO_NOT_TRACK": "true",
    }
    # A recipe is a file: some readers start processes that import it.
    program = cache_folder / "recipe.py"
    program.write_text(f"if __name__ == '__main__':\n    exec({code + REPORT!r}, globals())\n", encoding="utf-8")
    completed = subprocess.run(
        [sys.executable, program], cwd=place, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert completed.returncode == 0, completed.stderr
    found: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("recipe", list(recipes()), ids=lambda recipe: f"{recipe.heading}: {recipe.command[16:]}")
def test_a_documented_recipe_finds_all_classes_and_images(builds: Builds, recipe: Recipe, tmp_path: Path) -> None:
    imported = re.findall(r"^(?:from|import) (\w+)", recipe.code, re.MULTILINE)
    needed = [*imported, *(module for word, module in NEEDS.items() if word in recipe.code)]
    if missing := [name for name in needed if find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    found = run(recipe.code, builds.folder(recipe.command), tmp_path)
    folders = sorted(map(class_folder, IMAGES))
    assert found["names"] in (None, list(IMAGES))
    assert found["folders"] in (None, folders)
    if "counts" in found:
        assert found["counts"] == (IMAGES if found["names"] else dict(zip(folders, IMAGES.values(), strict=True)))
    if "numbers" in found:
        of_one_split = "train = " in recipe.code
        assert set(found["numbers"]) == {"0", "1"}
        assert of_one_split or found["numbers"] == {"0": 12, "1": 8}
    assert {"names", "folders", "numbers"} & {name for name, value in found.items() if value}


def test_there_is_a_recipe_for_every_layout_but_one_for_people() -> None:
    layouts = {
        parsed.main(shlex.split(recipe.command)[2:], standalone_mode=False).options.get("layout", "imagefolder")
        for recipe in recipes()
    }
    assert layouts == set(protocol.LAYOUTS.installed()) - {"label_studio"}


def test_hugging_face_finds_the_splits_that_there_are(builds: Builds) -> None:
    data_files = pytest.importorskip("datasets.data_files")
    for recipe in recipes():
        folder = builds.folder(recipe.command) / "cats"
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        real = {"train"}
        if "--split" in recipe.command:
            real = {"train", "test"}
        elif "yolo" in recipe.command:
            real = {"train", "validation", "test"}
        assert set(map(str, data_files.get_data_patterns(str(folder)))) == real
        assert Counter(split for path in paths for split in splits_in(path)).keys() <= real

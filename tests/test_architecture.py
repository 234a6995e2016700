"""The import contracts of pyproject.toml notice what they are there for, in new files too."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: A new module, what it imports, and the contract that this breaks.
VIOLATIONS = (
    ("jobs/new_module.py", "pixcrawler_worker.crawl.kind", "Imports point down"),
    ("db/new_module.py", "pixcrawler_worker.storage", "Imports point down"),
    ("web/new_module.py", "pixcrawler_worker.db.models", "Imports point down"),
    ("domain/new_module.py", "time", "domain is pure: no third party, no I/O, no clock"),
    ("domain/new_module.py", "numpy", "domain is pure: no third party, no I/O, no clock"),
    ("logs.py", "kombu", "Only celery, tasks, client and broker know Celery"),
    ("jobs/new_module.py", "celery", "Only celery, tasks, client and broker know Celery"),
    ("jobs/new_module.py", "sqlalchemy", "Only db knows SQL"),
    ("cli/new_module.py", "psycopg", "Only db knows SQL"),
    ("crawl/new_module.py", "aiohttp", "Only web speaks HTTP"),
    ("sources/new_module.py", "aiohttp", "Only web speaks HTTP"),
    ("export/new_module.py", "PIL", "Only inspection opens images"),
    ("jobs/new_module.py", "prometheus_client", "Only metrics knows Prometheus"),
    ("exporters/new_module.py", "obstore", "Only storage stores objects"),
    ("export/new_module.py", "pixcrawler_worker.exporters.new_module", "Plug-ins are reached by entry point"),
    ("validate/new_module.py", "onnxruntime", "Only classifiers know models, and load them when images are scored"),
    ("validate/new_module.py", "pixcrawler_worker.classifiers.nsfw", "Plug-ins are reached by entry point"),
    ("runtime.py", "pixcrawler_worker.sources.commons", "Plug-ins are reached by entry point"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what import-linter says of a copy of the package with all violations in it."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "pixcrawler_worker", tree / "pixcrawler_worker")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name, imported, _ in VIOLATIONS:
        with (tree / "pixcrawler_worker" / name).open("a") as module:
            module.write(f"import {imported}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "imported", "contract"), VIOLATIONS)
def test_a_forbidden_import_is_noticed(report: str, name: str, imported: str, contract: str) -> None:
    _, broken = report.split("Broken contracts", 1)
    sections = re.split(r"\n(.+)\n-{3,}\n", broken)
    found = "".join(text for title, text in zip(sections[1::2], sections[2::2], strict=True) if contract in title)
    importer = "pixcrawler_worker." + name.removesuffix(".py").replace("/", ".")
    assert f"{importer} -> {imported} " in " ".join(found.split())


def test_a_new_module_needs_a_place_among_the_layers(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pixcrawler_worker", tmp_path / "pixcrawler_worker")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "pixcrawler_worker" / "new_module.py").touch()
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pixcrawler_worker.new_module" in done.stdout

"""Layouts of other packages."""

from collections.abc import Callable
from pathlib import Path

import pytest
from layout_samples import archives, write

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import ExportFormat

Install = Callable[[str], None]

SMALL = """
from collections.abc import Iterator
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample

class Numbered(Layout):
    summary = "files with numbers: scripts"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._last = dataset.part * 1_000_000

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        self._last += 1
        path = f"{self._last:09d}.{sample.extension}"
        return path, iter([Entry(path, sample.body)])
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with the layout `numbered` as pip leaves it: its module, and the entry point."""

    def installed(source: str) -> None:
        # Modules are imported once per process: each test has one of its own.
        module = f"numbered_{tmp_path.name}"
        metadata = tmp_path / "numbered_layout-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numbered-layout\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[pixcrawler.layouts]\nnumbered = {module}:Numbered\n")
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


def test_a_layout_needs_only_a_summary_and_a_method(install: Install) -> None:
    install(SMALL)
    layout = protocol.load("numbered")
    assert layout.export_formats == {ExportFormat.ZIP, ExportFormat.TAR}
    assert (layout.default_splits, layout.split_per_part, layout.data_files("train")) == ({}, False, None)
    assert layout.extra_path("README.md") == "README.md"
    (first, second) = archives(layout, splits=(), parts=2)
    assert list(write(layout, *first).files)[:2] == ["000000001.jpg", "000000002.png"]
    assert list(write(layout, *second).images)[:1] == ["001000001.png"]


def test_a_class_that_is_not_a_layout_is_reported_with_its_module(install: Install) -> None:
    install(SMALL.replace("Numbered(Layout)", "Numbered"))
    with pytest.raises(PermanentError, match=r"layout 'numbered' cannot be used: numbered_\w+:Numbered is not"):
        protocol.load("numbered")

from pathlib import Path

import pytest

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.plugins import Plugins

LAYOUTS = Plugins("layout")


def test_names_are_sorted_and_the_error_for_an_unknown_one_has_the_nearest() -> None:
    assert list(LAYOUTS.installed()) == sorted(LAYOUTS.installed())
    with pytest.raises(PermanentError, match="there is no layout 'yoloo'; did you mean 'yolo'"):
        LAYOUTS.load("yoloo")


def test_a_package_on_a_new_path_is_found_as_soon_as_the_path_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(LAYOUTS.installed())
    metadata = tmp_path / "more-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pixcrawler.layouts]\nmore = pathlib:Path\nless = pathlib:Nothing\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert set(LAYOUTS.installed()) == before | {"more", "less"}
        assert LAYOUTS.load("more") is Path
        with pytest.raises(PermanentError, match="layout 'less' cannot be loaded from pathlib:Nothing"):
            LAYOUTS.load("less")
    assert set(LAYOUTS.installed()) == before

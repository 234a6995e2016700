"""CONTRIBUTING.md names files that exist, and new ones that do not."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPES = re.findall(r"^\| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def test_every_file_to_change_exists_and_every_new_one_does_not() -> None:
    cells = [cell for cell in RECIPES if cell.startswith("`") and "." in cell]
    assert len(cells) > 20
    for cell in cells:
        first, *others = re.findall(r"`([\w./-]+)`", cell)
        paths = [ROOT / first, *(ROOT / Path(first).parent / name for name in others)]
        assert {path.exists() for path in paths} == {"(new)" not in cell}, cell

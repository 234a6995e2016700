"""Where the package finds its migrations; `tests/migrations` runs them."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from pixcrawler_worker.db import migrate
from pixcrawler_worker.errors import PermanentError

PROJECT = Path(__file__).parents[2]


def make_migrations(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "env.py").touch()
    return folder


def test_a_checkout_uses_its_top_level_folder() -> None:
    assert migrate.folder() == PROJECT / "migrations"


def test_the_folder_in_the_package_comes_first(tmp_path: Path) -> None:
    package = tmp_path / "pixcrawler_worker"
    package.mkdir()
    next_to_it = make_migrations(tmp_path / "migrations")
    assert migrate.folder(package) == next_to_it
    (package / "migrations").mkdir()
    assert migrate.folder(package) == next_to_it, "a folder without env.py has no migrations"
    (package / "migrations").rmdir()
    packed = make_migrations(package / "migrations")
    assert migrate.folder(package) == packed


def test_an_incomplete_installation_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    package = tmp_path / "pixcrawler_worker"
    package.mkdir()
    with pytest.raises(PermanentError) as caught:
        migrate.folder(package)
    assert str(caught.value) == (
        f"there are no migrations in {package / 'migrations'} or {tmp_path / 'migrations'}: install the package again"
    )


def test_the_newest_revision_is_that_of_a_migrated_database(engine: Engine) -> None:
    assert migrate.current(engine) == migrate.head()

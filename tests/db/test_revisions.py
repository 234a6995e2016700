"""Where the package finds its migrations; `tests/migrations` runs them."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from pixcrawler_worker.db import revisions
from pixcrawler_worker.errors import PermanentError

PROJECT = Path(__file__).parents[2]


def make_migrations(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "env.py").touch()
    return folder


def test_a_checkout_uses_its_top_level_folder() -> None:
    assert revisions.folder() == PROJECT / "migrations"


def test_the_folder_in_the_package_comes_first(tmp_path: Path) -> None:
    package = tmp_path / "pixcrawler_worker"
    package.mkdir()
    next_to_it = make_migrations(tmp_path / "migrations")
    assert revisions.folder(package) == next_to_it
    (package / "migrations").mkdir()
    assert revisions.folder(package) == next_to_it, "a folder without env.py has no migrations"
    (package / "migrations").rmdir()
    packed = make_migrations(package / "migrations")
    assert revisions.folder(package) == packed


def test_an_incomplete_installation_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    package = tmp_path / "pixcrawler_worker"
    package.mkdir()
    with pytest.raises(PermanentError) as caught:
        revisions.folder(package)
    assert str(caught.value) == (
        f"there are no migrations in {package / 'migrations'} or {tmp_path / 'migrations'}: install the package again"
    )


def test_the_newest_revision_is_that_of_a_migrated_database(engine: Engine) -> None:
    assert revisions.current(engine) == revisions.head()


def test_a_worker_does_not_load_alembic() -> None:
    script = "import sys; from pixcrawler_worker import celery, health, tasks; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

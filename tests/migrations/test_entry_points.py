"""The ways people run migrations: `alembic` in a checkout, and the installed package anywhere."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import catalog
import pytest

from pixcrawler_worker.db import migrate

PROJECT = Path(__file__).parents[2]
ALEMBIC = Path(sysconfig.get_path("scripts")) / "alembic"

_UPGRADE = """
import sys
from pixcrawler_worker.db import migrate
migrate.upgrade(sys.argv[1])
print(migrate.folder())
"""


def _run(
    *words: str | Path, variables: dict[str, str] | None = None, cwd: Path = PROJECT
) -> subprocess.CompletedProcess[str]:
    """Run a program that finds no address of a database in its environment but a given one."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    return subprocess.run(
        words, cwd=cwd, env=inherited | (variables or {}), capture_output=True, text=True, timeout=60, check=False
    )


def test_alembic_upgrade_head_in_a_checkout_migrates_the_database_of_the_environment(
    database: str, migrated: str
) -> None:
    ran = _run(ALEMBIC, "upgrade", "head", variables={"PIXCRAWLER_DATABASE_URL": database})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert catalog.describe(database) == catalog.describe(migrated)


def test_without_an_address_alembic_says_in_one_line_what_to_set() -> None:
    ran = _run(ALEMBIC, "upgrade", "head")
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == ["set PIXCRAWLER_DATABASE_URL, for example postgresql:///pixcrawler"]


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory)
    assert built.returncode == 0, built.stderr
    (wheel,) = directory.glob("pixcrawler_worker-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "unpacked")
    return directory / "unpacked"


def test_the_wheel_has_the_migrations_of_the_checkout_to_the_byte(unpacked_wheel: Path) -> None:
    def sources(folder: Path) -> dict[Path, bytes]:
        found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {path.relative_to(folder): path.read_bytes() for path in found}

    packed = sources(unpacked_wheel / "pixcrawler_worker/migrations")
    assert packed == sources(PROJECT / "migrations")
    assert {Path("env.py"), Path("script.py.mako"), Path("versions/0001_documented_tables.py")} < packed.keys()


def test_a_checkout_uses_its_own_folder() -> None:
    assert migrate.folder() == PROJECT / "migrations"


def test_autogenerate_finds_nothing_to_do_in_a_migrated_database(migrated: str) -> None:
    ran = _run(ALEMBIC, "check", variables={"PIXCRAWLER_DATABASE_URL": migrated})
    assert (ran.returncode, ran.stdout.strip()) == (0, "No new upgrade operations detected.")


def test_the_unpacked_wheel_migrates_from_any_directory(
    database: str, migrated: str, unpacked_wheel: Path, tmp_path: Path
) -> None:
    ran = _run(sys.executable, "-c", _UPGRADE, database, variables={"PYTHONPATH": str(unpacked_wheel)}, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Path(ran.stdout.strip()) == unpacked_wheel / "pixcrawler_worker/migrations"
    assert catalog.describe(database) == catalog.describe(migrated)

"""The ways to run migrations: `alembic` in a checkout, and the installed package anywhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import catalog
import pytest

PROJECT = Path(__file__).parents[2]
ALEMBIC = Path(sysconfig.get_path("scripts")) / "alembic"

_UPGRADE = """
import sys
from pixcrawler_worker.db import migrate, revisions
migrate.upgrade(sys.argv[1])
print(revisions.folder())
"""


def _run(
    *words: str | Path, variables: dict[str, str] | None = None, cwd: Path = PROJECT
) -> subprocess.CompletedProcess[str]:
    """Run a program without the URL of a database in its environment, except one from `variables`."""
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


def test_without_a_url_alembic_says_in_one_line_what_to_set() -> None:
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


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    built = _run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory)
    assert built.returncode == 0, built.stderr
    (sdist,) = directory.glob("pixcrawler_worker-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (unpacked,) = [path for path in directory.iterdir() if path.is_dir()]
    return unpacked


def _files(folder: Path) -> dict[Path, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_the_wheel_has_the_migrations_of_the_checkout_byte_by_byte(unpacked_wheel: Path) -> None:
    packed = _files(unpacked_wheel / "pixcrawler_worker/migrations")
    assert packed == _files(PROJECT / "migrations")
    assert {Path("env.py"), Path("script.py.mako"), Path("versions/0001_documented_tables.py")} < packed.keys()


def test_the_wheel_has_the_package_of_the_checkout_and_nothing_else(unpacked_wheel: Path) -> None:
    packed = _files(unpacked_wheel)
    expected = {
        **{
            Path("pixcrawler_worker") / path: content for path, content in _files(PROJECT / "pixcrawler_worker").items()
        },
        Path("pixcrawler_worker/alembic.ini"): (PROJECT / "alembic.ini").read_bytes(),
        **{
            Path("pixcrawler_worker/migrations") / path: content
            for path, content in _files(PROJECT / "migrations").items()
        },
    }
    assert {path: content for path, content in packed.items() if not path.parts[0].endswith(".dist-info")} == expected


def test_a_wheel_can_be_built_from_the_sdist(unpacked_sdist: Path, unpacked_wheel: Path, tmp_path: Path) -> None:
    built = _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked_sdist)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert _files(tmp_path / "unpacked/pixcrawler_worker") == _files(unpacked_wheel / "pixcrawler_worker")


def test_autogenerate_finds_nothing_in_a_migrated_database(migrated: str) -> None:
    ran = _run(ALEMBIC, "check", variables={"PIXCRAWLER_DATABASE_URL": migrated})
    assert (ran.returncode, ran.stdout.strip()) == (0, "No new upgrade operations detected.")


def test_the_unpacked_wheel_migrates_from_any_directory(
    database: str, migrated: str, unpacked_wheel: Path, tmp_path: Path
) -> None:
    ran = _run(sys.executable, "-c", _UPGRADE, database, variables={"PYTHONPATH": str(unpacked_wheel)}, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Path(ran.stdout.strip()) == unpacked_wheel / "pixcrawler_worker/migrations"
    assert catalog.describe(database) == catalog.describe(migrated)


def test_the_image_builds_the_same_wheel(unpacked_wheel: Path, tmp_path: Path) -> None:
    """Build from nothing but what the Dockerfile copies and .dockerignore lets through."""
    allowed = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    build_stage, _, _ = (PROJECT / "Dockerfile").read_text().partition("\nFROM python:${PYTHON}\n")
    copied = [line.split()[1:] for line in build_stage.splitlines() if line.startswith("COPY ")]
    for *sources, target in copied:
        for source in sources:
            assert any(fnmatch(source, pattern) for pattern in allowed), source
            if (PROJECT / source).is_dir():
                shutil.copytree(PROJECT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tmp_path / target).mkdir(exist_ok=True)
                shutil.copy(PROJECT / source, tmp_path / target)
    built = _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert _files(tmp_path / "unpacked") == _files(unpacked_wheel)


def test_alembic_with_the_configuration_of_the_unpacked_wheel_migrates_from_any_directory(
    database: str, migrated: str, unpacked_wheel: Path, tmp_path: Path
) -> None:
    """As in the Docker image: by a link to the package whose path has no version of Python."""
    (tmp_path / "package").symlink_to(unpacked_wheel / "pixcrawler_worker")
    variables = {
        "ALEMBIC_CONFIG": str(tmp_path / "package/alembic.ini"),
        "DATABASE_URL": database,
        "PYTHONPATH": str(unpacked_wheel),
    }
    for words in (["upgrade", "head"], ["check"]):
        ran = _run(ALEMBIC, *words, variables=variables, cwd=tmp_path)
        assert (ran.returncode, ran.stderr) == (0, "")
    assert catalog.describe(database) == catalog.describe(migrated)


def test_pixcrawler_db_upgrade_of_the_unpacked_wheel_migrates_from_any_directory(
    database: str, migrated: str, unpacked_wheel: Path, tmp_path: Path
) -> None:
    variables = {"PIXCRAWLER_DATABASE_URL": database, "PYTHONPATH": str(unpacked_wheel)}
    for _ in range(2):
        ran = _run(
            sys.executable, "-m", "pixcrawler_worker.cli.main", "db", "upgrade", variables=variables, cwd=tmp_path
        )
        assert (ran.returncode, ran.stdout) == (0, "the database is up to date\n"), ran.stderr
    assert catalog.describe(database) == catalog.describe(migrated)


def test_autogenerate_makes_an_empty_revision_of_a_migrated_database(migrated: str, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "alembic.ini", tmp_path)
    shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
    variables = {"PIXCRAWLER_DATABASE_URL": migrated}
    ran = _run(ALEMBIC, "revision", "--autogenerate", "-m", "Nothing", variables=variables, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    (written,) = (tmp_path / "migrations/versions").glob("*_nothing.py")
    _, _, functions = written.read_text().partition("def upgrade")
    statements = [line.strip() for line in functions.splitlines() if not line.strip().startswith("#")]
    assert [statement for statement in statements if statement] == [
        "() -> None:",
        "pass",
        "def downgrade() -> None:",
        "pass",
    ]

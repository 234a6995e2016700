"""Dump the database into a file and restore it, with pg_dump, pg_restore and psql.

A restore is one transaction: the database has all of the dump or is as it was before.
"""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import client_programs
from pixcrawler_worker.db.client_programs import ClientPrograms
from pixcrawler_worker.db.models import Base
from pixcrawler_worker.db.private_models import PRIVATE
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import PermanentError, TransientError

SCHEMAS = ("public", PRIVATE)
#: How long pg_dump waits for a table that is locked exclusively, for example by a migration.
_LOCK_TIMEOUT = "30s"
#: First lines of a script in which a setting is looked for that servers before PostgreSQL 17 do not know.
_HEAD_LINES = 40
_BUFFER = 1 << 20
_UNKNOWN_SETTING = b"SET transaction_timeout"
#: Entries of a dump that every database has, and those that only a database of Supabase can have.
_EVERYWHERE = re.compile(r"^\d+; \d+ \d+ (SCHEMA - public|COMMENT - SCHEMA public|ACL - SCHEMA public) ")
_ON_SUPABASE = re.compile(r"^\d+; \d+ \d+ (POLICY|ROW SECURITY|FK CONSTRAINT public profiles) ")

_TABLES = text("""
    SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'pixcrawler') AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
            AND d.deptype = 'e')
    ORDER BY 1
""")
_IS_SUPABASE = text("""
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'auth' AND c.relname = 'users')
""")
#: Results of attempts that began before a restore must not match a claim made after it.
_SKIP_FENCES = text("SELECT setval('pixcrawler.fence', last_value + 1000000000) FROM pixcrawler.fence")


def dump(
    url: str, file: Path, *, programs: ClientPrograms, snapshot: str | None = None, overwrite: bool = False
) -> int:
    """Dump the documented and the private tables into a file, and return its size in bytes.

    The file appears under its name when it is complete and on disk, readable for its owner only.

    Args:
        url: of the database, in the form of libpq.
        file: to write, in the custom format of pg_dump.
        programs: not older than the server.
        snapshot: an exported one, whose rows to dump; a new one by default.
        overwrite: replace the file if it exists.

    Raises:
        PermanentError: when the file exists or its folder does not.
        TransientError: when pg_dump fails, or the file cannot be written.
    """
    if not overwrite and file.exists():
        raise PermanentError(f"{file} exists: choose another name, or remove it")
    if not file.parent.is_dir():
        raise PermanentError(f"{file.parent} is not a folder: create it")
    try:
        with _partial(file) as partial:
            command = [
                programs.path("pg_dump"),
                "--format=custom",
                "--no-password",
                f"--lock-wait-timeout={_LOCK_TIMEOUT}",
                f"--file={partial}",
                *(f"--schema={schema}" for schema in SCHEMAS),
            ]
            client_programs.run(
                command if snapshot is None else [*command, f"--snapshot={snapshot}"],
                env=client_programs.environment(url),
            )
            # What cannot be listed cannot be restored.
            _entries(programs, partial)
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(file)
            return file.stat().st_size
    except OSError as error:
        raise TransientError(f"{file} could not be written: {error}") from error


@contextlib.contextmanager
def _partial(file: Path) -> Iterator[Path]:
    """Yield a new file in the folder of another one, and remove it at the end if it is still there."""
    number, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)
    os.close(number)
    partial = Path(name)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def tables(engine: Engine) -> list[str]:
    """Return what the database has in the schemas of a dump: tables, views and sequences, with their schema.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect() as connection:
            return list(connection.scalars(_TABLES))
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error


def is_supabase(engine: Engine) -> bool:
    """Return whether the database has the users of Supabase.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(_IS_SUPABASE))
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error


def restore(  # noqa: PLR0913 - what is restored, where to, and how
    url: str,
    file: Path,
    *,
    programs: ClientPrograms,
    database: str | None = None,
    supabase: bool = False,
    replace: bool = False,
) -> None:
    """Restore a dump, without the owners and grants of its objects: they belong to the role that restores it.

    Args:
        url: of the database, in the form of libpq.
        file: in the custom format of pg_dump.
        programs: not older than the pg_dump that has written the file.
        database: to restore into, instead of the one in the URL.
        supabase: whether the database has what the policies of a dump from Supabase refer to; they are left out if not.
        replace: drop the tables that the database has first, in the same transaction.

    Raises:
        PermanentError: when the file is no dump of this service.
        TransientError: when it could not be restored; the database is as it was before.
    """
    entries = [line for line in _entries(programs, file) if not _EVERYWHERE.match(line)]
    if not supabase:
        entries = [line for line in entries if not _ON_SUPABASE.match(line)]
    if not any(f" TABLE DATA {PRIVATE} alembic_version " in line for line in entries):
        raise PermanentError(f"{file} is no backup of PixCrawler: it lacks the table {PRIVATE}.alembic_version")
    with tempfile.NamedTemporaryFile("w", prefix="pixcrawler-", suffix=".list") as chosen:
        chosen.write("\n".join(entries) + "\n")
        chosen.flush()
        reading = [
            programs.path("pg_restore"),
            "--no-owner",
            "--no-privileges",
            f"--use-list={chosen.name}",
            *(["--clean", "--if-exists"] if replace else []),
            "--file=-",
            str(file),
        ]
        writing = [
            programs.path("psql"),
            *("--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"),
        ]
        env = client_programs.environment(url, database=database)
        _pipe(reading, writing, env=env, before=_dropping() if replace else "")


def settle(engine: Engine) -> None:
    """Prepare a restored database for workers: fence tokens that were never taken, and statistics for the planner.

    A worker of the time before the restore may still bring the result of an attempt.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.begin() as connection:
            connection.execute(_SKIP_FENCES)
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            for table in Base.metadata.sorted_tables:
                connection.execute(text(f"ANALYZE {table.fullname}"))
    except DBAPIError as error:
        raise TransientError(f"the restored database could not be prepared: {describe(error)}") from error


def _entries(programs: ClientPrograms, file: Path) -> list[str]:
    """Return the entries of a dump, in the order of its table of contents.

    Raises:
        PermanentError: when there is no such file.
        TransientError: when it is not a dump, or a truncated one.
    """
    if not file.is_file():
        raise PermanentError(f"{file} does not exist, or is not a file")
    listed = client_programs.run([programs.path("pg_restore"), "--list", str(file)], env=os.environ)
    return [line for line in listed.splitlines() if line and not line.startswith(";")]


def _dropping() -> str:
    """Return the statements that drop what a restore replaces, also what the dump does not have."""
    dropped = [f"DROP TABLE IF EXISTS {name} CASCADE;" for name in sorted(_public_tables())]
    waits = "SET lock_timeout = '30s';"
    return "\n".join([waits, f"DROP SCHEMA IF EXISTS {PRIVATE} CASCADE;", *dropped]) + "\n"


def _public_tables() -> list[str]:
    return [f"public.{table.name}" for table in Base.metadata.tables.values() if table.schema is None]


def _pipe(reading: list[str], writing: list[str], *, env: Mapping[str, str], before: str) -> None:
    """Run the script that one program writes with another one, in one transaction.

    Its COMMIT is written when the first program has succeeded: psql runs what it has got when its input ends early,
    also because this process was killed.

    Raises:
        TransientError: when one of them fails.
    """
    with tempfile.TemporaryFile() as read_errors, tempfile.TemporaryFile() as write_errors:
        reader = subprocess.Popen(
            reading, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=read_errors
        )
        writer = subprocess.Popen(
            writing, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=write_errors
        )
        assert isinstance(reader.stdout, BufferedReader)
        assert writer.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # its error says why it ended
                writer.stdin.write(f"BEGIN;\n{before}".encode())
                _copy_script(reader.stdout, writer.stdin)
                writer.stdin.flush()
            reader.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                if reader.wait() == 0:
                    writer.stdin.write(b"COMMIT;\n")
                writer.stdin.close()
            writer.wait()
        finally:
            for process in (writer, reader):
                if process.poll() is None:
                    process.kill()
                    process.wait()
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
        # A reader whose output was not taken any more has an error, too.
        for process, errors in ((writer, write_errors), (reader, read_errors)):
            if process.returncode > 0:
                errors.seek(0)
                reason = client_programs.last_lines(errors.read().decode(errors="replace"))
                raise TransientError(f"the dump could not be restored, nothing was changed: {reason}")
        if writer.returncode != 0 or reader.returncode != 0:
            raise TransientError("the dump could not be restored, nothing was changed: a program was killed")


def _copy_script(source: BufferedReader, target: IO[bytes]) -> None:
    for _ in range(_HEAD_LINES):
        line = source.readline()
        if not line.startswith(_UNKNOWN_SETTING):
            target.write(line)
    # What has arrived, not a whole buffer: psql works meanwhile.
    while content := source.read1(_BUFFER):
        target.write(content)
        target.flush()

"""`pixcrawler db backup`, `db restore` and `db drill`."""

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import factories
import psycopg
import pytest
from calls import call
from psycopg import conninfo

from pixcrawler_worker.db import client_programs
from pixcrawler_worker.db.drill import PREFIX
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.errors import PermanentError, TransientError

#: A program that writes down its arguments and its environment.
_RECORDER = """#!{python}
import os, sys
if "--version" in sys.argv:
    print("pg_dump (PostgreSQL) 99.1")
    sys.exit()
for name, found in (("args", sys.argv), ("env", dict(os.environ))):
    with open("{file}." + name, "w") as file:
        file.write(repr(found))
"""


#: A pg_restore that stops in the middle of its script, in front of the end of the rows of a table, and ends with its
#: parent.
_SLOW = """#!{python}
import os, subprocess, sys, time
done = subprocess.run(["{program}", *sys.argv[1:]], stdout=subprocess.PIPE, check=True)
if "--list" in sys.argv:
    sys.stdout.buffer.write(done.stdout)
    sys.exit()
half, _, _ = done.stdout.partition(b"COPY public.projects")
rest = done.stdout[len(half):]
sys.stdout.buffer.write(half + rest[:rest.index(b"\\n") + 1])
sys.stdout.buffer.flush()
open("{reached}", "w").close()
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.02)
"""
#: Whether the restore has begun: psql has a transaction open.
_RESTORING = """
    SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'pixcrawler' AND backend_xid IS NOT NULL
        AND datname = current_database()
"""


@pytest.fixture
def job(sessions: Sessions) -> int:
    return factories.start_job(sessions, chunks=5).id


@pytest.fixture
def empty(env: Mapping[str, str], empty_database_url: str) -> Iterator[Mapping[str, str]]:
    yield {**env, "PIXCRAWLER_DATABASE_URL": empty_database_url}
    _run(
        empty_database_url, "DROP SCHEMA IF EXISTS pixcrawler CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
    )


@pytest.fixture
def dump(env: Mapping[str, str], job: int, tmp_path: Path) -> Path:
    file = tmp_path / "backup.dump"
    done = call(env, "db", "backup", str(file))
    assert done.exit_code == 0, done.output
    return file


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _other(url: str, name: str) -> str:
    return conninfo.make_conninfo(url, dbname=name)


def _databases(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT datname FROM pg_database")]


def test_a_backup_is_restored_into_an_empty_database(
    env: Mapping[str, str], empty: Mapping[str, str], dump: Path, job: int
) -> None:
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    assert [path.name for path in dump.parent.iterdir()] == [dump.name]
    done = call(empty, "db", "restore", str(dump))
    assert done.exit_code == 0, done.output
    assert "at migration " in done.output
    assert "start the workers" in done.output
    assert call(empty, "jobs", "show", str(job)).exit_code == 0
    for query in ("SELECT count(*) FROM pixcrawler.chunks", "SELECT last_value FROM pixcrawler.chunks_id_seq"):
        assert _value(empty["PIXCRAWLER_DATABASE_URL"], query) == _value(env["PIXCRAWLER_DATABASE_URL"], query)
    fence = "SELECT last_value FROM pixcrawler.fence"
    ahead = _value(empty["PIXCRAWLER_DATABASE_URL"], fence), _value(env["PIXCRAWLER_DATABASE_URL"], fence)
    assert isinstance(ahead[0], int)
    assert isinstance(ahead[1], int)
    assert ahead[0] > ahead[1] + 1_000_000


def test_a_database_with_tables_is_only_restored_into_by_force(empty: Mapping[str, str], dump: Path) -> None:
    url = empty["PIXCRAWLER_DATABASE_URL"]
    assert call(empty, "db", "restore", str(dump)).exit_code == 0
    _run(url, "UPDATE public.projects SET name = 'changed'; CREATE TABLE pixcrawler.later (id int)")
    with pytest.raises(PermanentError, match="not empty"):
        call(empty, "db", "restore", str(dump))
    assert _value(url, "SELECT name FROM public.projects") == "changed"
    done = call(empty, "db", "restore", "--force", str(dump))
    assert done.exit_code == 0, done.output
    assert _value(url, "SELECT name FROM public.projects") == "images"
    assert _value(url, "SELECT to_regclass('pixcrawler.later')") is None


def test_what_cannot_be_restored_changes_nothing(empty: Mapping[str, str], dump: Path, tmp_path: Path) -> None:
    url = empty["PIXCRAWLER_DATABASE_URL"]
    assert call(empty, "db", "restore", str(dump)).exit_code == 0
    _run(url, "UPDATE public.projects SET name = 'changed'")
    content = dump.read_bytes()
    for number, damaged in enumerate((content[: len(content) // 2], content[:-200], b"no dump", b"")):
        file = tmp_path / f"damaged-{number}.dump"
        file.write_bytes(damaged)
        with pytest.raises(TransientError, match=r"pg_restore failed|nothing was changed"):
            call(empty, "db", "restore", "--force", str(file))
        assert _value(url, "SELECT name FROM public.projects") == "changed"
    with pytest.raises(PermanentError, match="does not exist"):
        call(empty, "db", "restore", "--force", str(tmp_path / "none"))


def test_a_restore_that_is_killed_changes_nothing(empty: Mapping[str, str], dump: Path, tmp_path: Path) -> None:
    """psql gets the end of its input, in the middle of the rows of a table."""
    embedded = launcher.locate("postgres")
    assert embedded is not None
    folder, reached = tmp_path / "bin", tmp_path / "reached"
    folder.mkdir()
    slow = _SLOW.format(python=sys.executable, program=embedded.with_name("pg_restore"), reached=reached)
    for name, content in (
        ("pg_dump", _RECORDER.format(python=sys.executable, file=tmp_path / "x")),
        ("pg_restore", slow),
    ):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    (folder / "psql").symlink_to(embedded.with_name("psql"))
    variables = {**os.environ, **empty, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    url = empty["PIXCRAWLER_DATABASE_URL"]
    command = [str(Path(sys.executable).with_name("pixcrawler")), "db", "restore", str(dump)]
    with subprocess.Popen(command, env=variables) as restore:
        try:
            _wait_until(reached.exists)
            _wait_until(lambda: _value(url, _RESTORING) == 1)
        finally:
            restore.kill()
    _wait_until(lambda: _value(url, _RESTORING) == 0)
    assert _value(url, "SELECT to_regnamespace('pixcrawler')") is None
    assert _value(url, "SELECT to_regclass('public.projects')") is None


def _wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_older_or_unknown_migration_says_what_is_next(
    env: Mapping[str, str], empty: Mapping[str, str], dump: Path
) -> None:
    url = empty["PIXCRAWLER_DATABASE_URL"]
    for revision, next_ in (("0011", "next: pixcrawler db upgrade"), ("9999", "next: install the version")):
        assert call(empty, "db", "restore", "--force", str(dump)).exit_code == 0
        _run(url, f"UPDATE pixcrawler.alembic_version SET version_num = '{revision}'")
        file = dump.with_name(f"{revision}.dump")
        assert call(empty, "db", "backup", str(file)).exit_code == 0
        assert next_ in call(empty, "db", "restore", "--force", str(file)).output


def test_a_backup_never_leaves_a_partial_file(env: Mapping[str, str], dump: Path) -> None:
    with pytest.raises(PermanentError, match="exists"):
        call(env, "db", "backup", str(dump))
    before = dump.read_bytes()
    url = env["PIXCRAWLER_DATABASE_URL"]
    _run(url, "CREATE VIEW public.broken AS SELECT 1 AS one; CREATE TABLE public.unreadable (id int)")
    role = f"reader_{os.getpid()}"
    _run(
        url,
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pixcrawler TO {role};"
        f" GRANT SELECT ON ALL TABLES IN SCHEMA pixcrawler TO {role}",
    )
    try:
        reader = {**env, "PIXCRAWLER_DATABASE_URL": url.replace("user=pixcrawler", f"user={role}")}
        for words in ([str(dump), "--overwrite"], [str(dump.with_name("other.dump"))]):
            with pytest.raises(TransientError, match="permission denied"):
                call(reader, "db", "backup", *words)
        assert [path.name for path in dump.parent.iterdir()] == [dump.name]
        assert dump.read_bytes() == before
    finally:
        _run(url, f"DROP OWNED BY {role}; DROP ROLE {role}; DROP VIEW public.broken; DROP TABLE public.unreadable")


def test_no_part_of_the_url_is_on_a_command_line(env: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        program = folder / name
        program.write_text(_RECORDER.format(python=sys.executable, file=tmp_path / name))
        program.chmod(0o755)
    url = "postgresql://user:s3cret%40pw@db.example/name?sslmode=require&options=-c%20app.token%3Dhidden"
    (programs,) = client_programs.search([folder], path="")
    environment = client_programs.environment(url)
    client_programs.run([programs.path("pg_dump"), "--format=custom"], env=environment)
    arguments, variables = (tmp_path / "pg_dump.args").read_text(), (tmp_path / "pg_dump.env").read_text()
    assert "s3cret" not in arguments
    assert "example" not in arguments
    for shown in ("'PGPASSWORD': 's3cret@pw'", "'PGHOST': 'db.example'", "'PGSSLMODE': 'require'", "app.token=hidden"):
        assert shown in variables
    with pytest.raises(PermanentError, match="sslpassword"):
        client_programs.environment("postgresql://user@db.example/name?sslpassword=secret")


def test_missing_and_older_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"not found: .*postgresql-client-18"):
        client_programs.for_server(client_programs.search(path=str(tmp_path)), "18.1")
    embedded = launcher.locate("postgres")
    assert embedded is not None
    (programs,) = client_programs.search([embedded.parent], path=str(tmp_path))
    assert programs.major == 18
    assert client_programs.for_server([programs], "18.1 (Debian)") == programs
    assert client_programs.for_server([programs], "13.2") == programs
    with pytest.raises(PermanentError, match=r"pg_dump 18\S* in .* is older than the server \(19beta1\)"):
        client_programs.for_server([programs], "19beta1")


def test_a_drill_finds_a_tampered_row(env: Mapping[str, str], job: int) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    done = call(env, "db", "drill", "--keep")
    assert done.exit_code == 0, done.output
    assert "the restored database is the same" in done.output
    (name,) = [word.rstrip(",") for word in done.output.split() if word.startswith(PREFIX)]
    try:
        again = call(env, "db", "drill", "--against", name)
        assert again.exit_code == 0, again.output
        for statement in (
            f"UPDATE pixcrawler.chunks SET attempt = 1 WHERE crawl_job_id = {job} AND seq = 3",
            "UPDATE pixcrawler.alembic_version SET version_num = '0001'",
            "DROP INDEX public.ix_image_crawl_job_id",
        ):
            _run(_other(url, name), statement)
        _run(_other(url, name), f"DELETE FROM pixcrawler.chunks WHERE crawl_job_id = {job} AND seq = 4")
        tampered = call(env, "db", "drill", "--against", name)
        assert tampered.exit_code == 1
        ids = {
            seq: _value(url, f"SELECT id FROM pixcrawler.chunks WHERE crawl_job_id = {job} AND seq = {seq}")
            for seq in (3, 4)
        }
        assert "DIFFERENCE pixcrawler.chunks: " in tampered.output
        assert f"  id = {ids[3]} differs\n" in tampered.output
        assert f"  id = {ids[4]} is missing\n" in tampered.output
        assert "DIFFERENCE migration: " in tampered.output
        assert "DIFFERENCE public.ix_image_crawl_job_id: the index was not restored" in tampered.output
        assert "DIFFERENCE public.projects" not in tampered.output
    finally:
        _run(url, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_drill_is_exact_while_rows_are_written_and_leaves_nothing_behind(env: Mapping[str, str], job: int) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    stopped = threading.Event()

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stopped.is_set():
                connection.execute("UPDATE pixcrawler.chunks SET dispatch_count = dispatch_count + 1")
                connection.execute("INSERT INTO public.activity_logs (action) VALUES ('written')")
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = call(env, "db", "drill", "--files")
    finally:
        stopped.set()
        writer.join()
    assert done.exit_code == 0, done.output
    assert "files: " in done.output
    assert not [name for name in _databases(url) if name.startswith(PREFIX)]


def test_a_drill_compares_files_with_the_restored_rows(
    env: Mapping[str, str], sessions: Sessions, tmp_path: Path
) -> None:
    folder = tmp_path / "storage" / "crawl_jobs"
    job_id = factories.make_job(sessions)
    (folder / str(job_id) / "cat").mkdir(parents=True)
    (folder / str(job_id) / "cat" / "orphan.jpg").write_bytes(b"orphan")
    done = call(env, "db", "drill", "--files")
    assert done.exit_code == 1
    assert "1 without a row" in done.output
    assert "orphan.jpg" in done.output


def test_a_drill_needs_the_right_to_create_databases(env: Mapping[str, str], job: int) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    _run(url, "CREATE ROLE drills_nothing LOGIN")
    _run(url, "GRANT pg_read_all_data TO drills_nothing")
    try:
        other = url.replace("user=pixcrawler", "user=drills_nothing")
        with pytest.raises(PermanentError, match="the role needs CREATEDB"):
            call({**env, "PIXCRAWLER_DATABASE_URL": other}, "db", "drill")
    finally:
        _run(url, "DROP ROLE drills_nothing")


def test_a_drill_of_point_in_time_recovery_goes_with_no_other_option() -> None:
    for option in ("--files", "--keep", "--against=other"):
        done = call({}, "db", "drill", "--pitr", option)
        assert done.exit_code == 2
        assert "--pitr runs on temporary servers" in done.output

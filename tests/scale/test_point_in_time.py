"""Recovery to a point in time, as docs/operations.md describes it, with the embedded binaries."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import factories
import ledger
import psycopg
import pytest

from pixcrawler_worker.db import migrate, session
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded import launcher

pytestmark = [pytest.mark.scale, pytest.mark.timeout(300)]

CHUNKS = 20


def _set(url: str, **parameters: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in parameters.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, Sessions]]:
    with launcher.running(folder, allow_fake=True) as services:
        engine = session.connect(services.database_url, pool_size=2)
        try:
            yield services.database_url, session.sessions(engine)
        finally:
            engine.dispose()


def _run(sessions: Sessions, ref: JobRef, *, chunks: int) -> None:
    for chunk_id in ledger.ids_of(sessions, ref)[:chunks]:
        assert ledger.finish(sessions, ledger.claim(sessions, chunk_id))


def _base_backup(url: str, folder: Path) -> None:
    """Copy the running cluster into the folder of another server."""
    program = launcher.locate("postgres")
    assert program is not None
    copy = folder / "postgres" / "cluster"
    copy.parent.mkdir(parents=True)
    command = [str(program.with_name("pg_basebackup")), "--pgdata", str(copy), "--checkpoint=fast", "--no-password"]
    subprocess.run([*command, "--wal-method=none", "--dbname", url], check=True, capture_output=True)
    if os.geteuid() == 0:
        # The servers of root run as this user.
        user = pwd.getpwnam("nobody")
        for path in (copy, *copy.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)


def _now(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT clock_timestamp()::text").fetchone()
    assert row is not None
    return str(row[0])


def _archive_all(url: str, archive: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
        connection.execute("SELECT pg_switch_wal()")
    assert row is not None
    end = time.monotonic() + 60
    while not (archive / row[0]).exists():
        assert time.monotonic() < end, "nothing is archived"
        time.sleep(0.1)


def _wait_for_the_end_of_recovery(sessions: Sessions) -> None:
    end = time.monotonic() + 60
    while ledger.scalar(sessions, "SELECT pg_is_in_recovery()"):
        assert time.monotonic() < end, "the server is still a replica"
        time.sleep(0.1)


def test_a_server_is_recovered_to_a_time_between_two_jobs(tmp_path: Path) -> None:
    original, copy, archive = tmp_path / "original", tmp_path / "copy", tmp_path / "archive"
    archive.mkdir(mode=0o777)
    archive.chmod(0o777)
    with _server(original) as (url, _):
        _set(url, archive_mode="on", archive_command=f"test ! -f {archive}/%f && cp %p {archive}/%f")
    # With archiving, which begins with a start.
    with _server(original) as (url, sessions):
        migrate.upgrade(url)
        _base_backup(url, copy)
        first = factories.start_job(sessions, chunks=CHUNKS)
        _run(sessions, first, chunks=CHUNKS // 2)
        between = _now(url)
        second = factories.start_job(sessions, chunks=CHUNKS)
        _run(sessions, second, chunks=CHUNKS // 2)
        _archive_all(url, archive)

    (copy / "postgres" / "cluster" / "recovery.signal").touch()
    with (copy / "postgres" / "cluster" / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n"
            f"recovery_target_time = '{between}'\nrecovery_target_action = 'promote'\n"
        )
    shutil.rmtree(original)
    with _server(copy) as (url, sessions):
        _wait_for_the_end_of_recovery(sessions)
        ledger.check(sessions, first)
        assert ledger.scalar(sessions, f"SELECT completed_chunks FROM crawl_jobs WHERE id = {first.id}") == CHUNKS // 2
        assert ledger.scalar(sessions, f"SELECT count(*) FROM crawl_jobs WHERE id = {second.id}") == 0
        assert ledger.scalar(sessions, "SELECT count(*) FROM pixcrawler.chunks") == CHUNKS
        # It takes writes, and the job goes on to its end.
        for chunk_id in ledger.ids_of(sessions, first)[CHUNKS // 2 :]:
            assert ledger.finish(sessions, ledger.claim(sessions, chunk_id))
        ledger.check(sessions, first)

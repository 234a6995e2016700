"""Prove that recovery to a point in time works: archive the log of a temporary server, and recover a copy of it."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import client_programs, comparison, job_rows, migrate, session
from pixcrawler_worker.db.comparison import Contents, Difference
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.models import CrawlJob
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions, describe, transact
from pixcrawler_worker.errors import TransientError

#: Runs a server in a folder, whose cluster is in `postgres/cluster`, and yields the URL of its database.
Servers = Callable[[Path], AbstractContextManager[str]]

#: Chunks of each job, and how many of them are run.
CHUNKS, RUN = 20, 10
#: Seconds for the log to be archived, and for a server to recover.
_PATIENCE = 60.0
_LEASE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a drill of recovery to a point in time has compared.

    Attributes:
        target: the time, as PostgreSQL writes it.
        original: what the database had at that time.
        restored: what the recovered one has.
        later_jobs: jobs of the time after that are there nevertheless: 0 when the drill was passed.
        differences: between the two; none when it was passed.
    """

    target: str
    original: Contents
    restored: Contents
    later_jobs: int
    differences: list[Difference]


def drill(servers: Servers, *, basebackup: Path) -> Recovery:
    """Run a job, note the time, run another job, recover a base backup to that time, and compare.

    Everything is on temporary servers of this machine, in a temporary folder. No configured database is touched.

    Args:
        servers: run a server.
        basebackup: the program pg_basebackup, of the version of the servers.

    Raises:
        TransientError: when a server or a program fails, or the log is not archived in time.
    """
    with tempfile.TemporaryDirectory(prefix="pixcrawler-pitr-") as name:
        original, copy, archive = (Path(name) / part for part in ("original", "copy", "archive"))
        archive.mkdir()
        archive.chmod(0o777)  # the server may run as another user
        try:
            with servers(original) as url:
                _set(url, archive_mode="on", archive_command=f"test ! -f {archive}/%f && cp %p {archive}/%f")
            # Archiving begins with a start.
            with servers(original) as url:
                target, contents = _write(url, original, copy, basebackup)
                _archive_all(url, archive)
            _prepare_recovery(copy, archive, target)
            shutil.rmtree(original)
            with servers(copy) as url:
                return _compare(url, target, contents)
        except DBAPIError as error:
            raise TransientError(f"a server of the drill does not answer: {describe(error)}") from error


def _write(url: str, original: Path, copy: Path, basebackup: Path) -> tuple[str, Contents]:
    """Run two jobs with a base backup before them; return the time between them, and what there was then."""
    migrate.upgrade(url)
    with _engine(url) as engine:
        sessions = session.sessions(engine)
        _base_backup(url, original, copy, basebackup)
        _run_job(sessions, "before the time")
        with comparison.snapshot(engine) as connection:
            contents = comparison.read(connection)
            target = str(connection.scalar(text("SELECT clock_timestamp()::text")))
        _run_job(sessions, "after the time")
    return target, contents


def _run_job(sessions: Sessions, name: str) -> None:
    """Insert a job, and run half of its chunks: it is recovered in the middle of its work."""
    with sessions.begin() as opened:
        job_id = job_rows.create_crawl_job(opened, name=name, keywords=["cat"], max_images=100, project_id=None)
        assert job_id is not None
        ref = CRAWL_JOBS.ref(job_id)
        jobs.lock(opened, ref)
        jobs.begin(opened, ref)
        jobs.add_chunks(opened, ref, [{"number": number} for number in range(CHUNKS)])
        ids = opened.scalars(select(Chunk.id).where(Chunk.crawl_job_id == job_id).order_by(Chunk.seq).limit(RUN)).all()
    for chunk_id in ids:
        with sessions.begin() as opened:
            claim = chunks.claim(opened, CRAWL_JOBS, chunk_id, owner=f"drill:{chunk_id}", lease=_LEASE)
        assert claim is not None
        with sessions.begin() as opened:
            chunks.lock_claim(opened, claim)
            chunks.finish(opened, claim, result={"number": chunk_id}, gains={"total_images": 1})


def _base_backup(url: str, original: Path, copy: Path, program: Path) -> None:
    """Copy the running cluster into the folder of another server."""
    target = _cluster(copy)
    target.parent.mkdir(parents=True)
    command = [str(program), "--pgdata", str(target), "--checkpoint=fast", "--no-password", "--wal-method=none"]
    client_programs.run(command, env=client_programs.environment(url))
    owner = _cluster(original).stat()
    if owner.st_uid != os.geteuid():
        for path in (target, *target.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _archive_all(url: str, archive: Path) -> None:
    with _engine(url) as engine, engine.connect() as connection:
        segment = connection.scalar(text("SELECT pg_walfile_name(pg_current_wal_lsn())"))
        connection.execute(text("SELECT pg_switch_wal()"))
    end = time.monotonic() + _PATIENCE
    while not (archive / str(segment)).exists():
        if time.monotonic() > end:
            raise TransientError(f"the write-ahead log was not archived within {_PATIENCE:.0f} s")
        time.sleep(0.1)


def _prepare_recovery(folder: Path, archive: Path, target: str) -> None:
    (_cluster(folder) / "recovery.signal").touch()
    with (_cluster(folder) / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n"
            f"recovery_target_time = '{target}'\nrecovery_target_action = 'promote'\n"
        )


def _compare(url: str, target: str, contents: Contents) -> Recovery:
    with _engine(url) as engine:
        sessions = session.sessions(engine)
        end = time.monotonic() + _PATIENCE
        while transact(sessions, lambda opened: opened.scalar(text("SELECT pg_is_in_recovery()"))):
            if time.monotonic() > end:
                raise TransientError(f"the server has not recovered within {_PATIENCE:.0f} s")
            time.sleep(0.1)
        with comparison.snapshot(engine) as connection:
            restored = comparison.read(connection)
            later = connection.scalar(select(func.count()).where(CrawlJob.name == "after the time")) or 0
            # The original has gone on: its rows of that time cannot be named any more.
            found = list(comparison.differences(contents, restored, (connection, connection)))
    return Recovery(target, contents, restored, later, found)


def _set(url: str, **parameters: str) -> None:
    with _engine(url) as engine, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name, value in parameters.items():
            connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = '{value}'".replace("%", "%%"))


def _cluster(folder: Path) -> Path:
    return folder / "postgres" / "cluster"


@contextlib.contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = session.connect(url, pool_size=1)
    try:
        yield engine
    finally:
        engine.dispose()

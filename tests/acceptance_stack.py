"""A database, a Redis database and a storage, with worker processes on them."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import factories
import preloaded
import psycopg
import psycopg.rows
import redis
from celery import Celery

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.embedded.services import Services

#: The command of this environment, independent of PATH.
PIXCRAWLER = str(Path(sys.executable).with_name("pixcrawler"))

WORKER = ("celery", "--app", "pixcrawler_worker", "--quiet", "worker")

#: Settings of workers: short leases, so that recovery is fast enough for a test.
_FAST_RECOVERY = {
    # Nothing listens there: a test that needs a provider sets another URL.
    "PIXCRAWLER_COMMONS_URL": "http://127.0.0.1:1/",
    "PIXCRAWLER_OPENVERSE_URL": "http://127.0.0.1:1/",
    "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8",
    "PIXCRAWLER_LEASE_SECONDS": "4",
    "PIXCRAWLER_SWEEP_SECONDS": "0.5",
    "PIXCRAWLER_FETCH_SECONDS": "3",
}

_HOSTS = Path(__file__).parent / "fakes" / "hosts.py"
_databases = itertools.count(1)

#: Counters that never fall while a job runs.
RISING = ("progress", "total_images", "downloaded_images", "valid_images", "completed_chunks")


@dataclass
class Stack:
    """One database, one Redis database and one storage, with the workers on them."""

    sessions: Sessions
    database_url: str
    broker_url: str
    redis_url: str
    data_dir: Path
    host: str
    #: As the processes of a test know the database and the broker, where that differs from the test itself.
    restricted_urls: tuple[str, str] | None = None
    #: Whether a worker has run on it.
    worked: bool = False
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    _connection: psycopg.Connection | None = None

    def close(self) -> None:
        """Close the connection that `query` and `job` use."""
        if self._connection:
            self._connection.close()

    def of_owner(self) -> "Stack":
        """The same, with processes that may migrate the database."""
        return replace(self, restricted_urls=self.restricted_urls and (self.database_url, self.restricted_urls[1]))

    def with_broker(self, url: str) -> "Stack":
        """The same, with processes that use another broker."""
        return replace(self, broker_url=url, restricted_urls=self.restricted_urls and (self.restricted_urls[0], url))

    @property
    def env(self) -> dict[str, str]:
        database_url, broker_url = self.restricted_urls or (self.database_url, self.broker_url)
        return (
            os.environ
            | _FAST_RECOVERY
            | {
                "PIXCRAWLER_DATABASE_URL": database_url,
                "PIXCRAWLER_BROKER_URL": broker_url,
                "PIXCRAWLER_DATA_DIR": str(self.data_dir),
            }
        )

    @contextlib.contextmanager
    def worker(self, *, concurrency: int = 2, **env: str) -> Iterator[preloaded.Process]:
        """Run a worker; at the end, terminate it with all its child processes."""
        command = [*WORKER]
        self.worked = True
        command += ["--without-gossip", "--without-mingle", "--concurrency", str(concurrency), "--loglevel", "INFO"]
        with (self.data_dir / "worker.log").open("ab") as log:
            process = preloaded.start(command, env=self.env | env, stdout=log, stderr=log, cwd=self.data_dir)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `pixcrawler` or `celery`, with arguments, to its end."""
        return preloaded.run(words, env=self.env | env, cwd=self.data_dir)

    def make_job(self, **values: Any) -> int:
        return factories.make_job(self.sessions, **values)

    def query(self, statement: str, *args: object) -> list[tuple[Any, ...]]:
        return self._connected().execute(statement.encode(), args).fetchall()

    def job(self, job_id: int) -> dict[str, Any]:
        with self._connected().cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute("SELECT * FROM crawl_jobs WHERE id = %s", (job_id,)).fetchone()
        assert row is not None
        return row

    def _connected(self) -> psycopg.Connection:
        """Return one connection for all polls: a new one each time would take the CPU from the workers."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.database_url, autocommit=True, prepare_threshold=None)
        return self._connection

    def wait(self, job_id: int, *, seconds: float = 60, until: Callable[[dict[str, Any]], bool] | None = None) -> None:
        """Wait until the job has ended, or until something holds of its row."""
        reached = until or (lambda row: row["status"] not in {"pending", "running"})
        deadline = time.monotonic() + seconds
        while not reached(row := self.job(job_id)):
            assert time.monotonic() < deadline, f"not in {seconds} s: {row}\n{self.log()[-4000:]}"
            time.sleep(0.05)

    def log(self) -> str:
        return (self.data_dir / "worker.log").read_text(errors="replace")

    def rows(self, job_id: int) -> set[tuple[Any, ...]]:
        """The images of the job, without ids and times."""
        return set(
            self.query(
                "SELECT i.original_url, i.filename, i.storage_url LIKE '%%/crawl_jobs/%%', i.width, i.height,"
                " i.file_size, i.format, f.sha256, f.label FROM images i JOIN pixcrawler.image_facts f"
                " ON f.image_id = i.id WHERE i.crawl_job_id = %s",
                job_id,
            )
        )

    def files(self, job_id: int) -> set[str]:
        folder = self.data_dir / "storage" / "crawl_jobs" / str(job_id)
        return {path.as_uri() for path in folder.rglob("*") if path.is_file()}

    def named_files(self, job_id: int) -> set[str]:
        return {url for (url,) in self.query("SELECT storage_url FROM images WHERE crawl_job_id = %s", job_id)}

    def reasons(self, job_id: int) -> dict[str, int]:
        rows = self.query(
            "SELECT key, sum(value::int) FROM pixcrawler.chunks, jsonb_each_text(result->'reasons')"
            " WHERE crawl_job_id = %s GROUP BY key",
            job_id,
        )
        return {reason: int(count) for reason, count in rows}

    @contextlib.contextmanager
    def watched(self, job_id: int) -> Iterator[None]:
        """Check the invariants of row, ledger and images of a job in repeated snapshots, until the context ends."""
        ended = threading.Event()
        failures: list[str] = []

        def look() -> None:
            with psycopg.connect(self.database_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
                before: dict[str, Any] | None = None
                while not ended.wait(0.02):
                    row = connection.execute(_SNAPSHOT, {"job": job_id}).fetchone()
                    assert row is not None
                    self.snapshots.append(row)
                    failures.extend(violations(before, row))
                    before = row

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert not failures, failures[:5]


@contextlib.contextmanager
def opened(services: Services, database_url: str, sessions: Sessions, host: str, data_dir: Path) -> Iterator[Stack]:
    """A stack on a database of Redis that no other stack of this process uses now."""
    number = next(_databases) % 15 + 1
    broker = services.broker_url.replace("virtual_host=0", f"virtual_host={number}")
    url = services.redis_url.replace("db=0", f"db={number}")
    with contextlib.closing(Stack(sessions, database_url, broker, url, data_dir, host)) as stack:
        yield stack
    with redis.Redis.from_url(url) as server:
        server.flushdb()


@contextlib.contextmanager
def hosts(*args: str) -> Iterator[str]:
    """Run a web server with faults in its own process; yield its base URL."""
    process = subprocess.Popen([sys.executable, str(_HOSTS), *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


_SNAPSHOT = """
    SELECT job.*, ledger.*, (SELECT count(*) FROM images WHERE crawl_job_id = job.id) AS rows
    FROM crawl_jobs job, LATERAL (
        SELECT count(*) AS chunks,
            count(*) FILTER (WHERE state = 'running') AS ledger_active,
            count(*) FILTER (WHERE state = 'completed') AS ledger_completed,
            count(*) FILTER (WHERE state = 'failed') AS ledger_failed
        FROM pixcrawler.chunks WHERE crawl_job_id = job.id
    ) ledger WHERE job.id = %(job)s
"""


def violations(before: dict[str, Any] | None, row: dict[str, Any]) -> Iterator[str]:
    """The invariants of the ledger that a snapshot violates, given the previous one."""
    for name, count in (
        ("active_chunks", row["ledger_active"]),
        ("completed_chunks", row["ledger_completed"]),
        ("failed_chunks", row["ledger_failed"]),
        ("total_chunks", row["chunks"]),
        ("valid_images", row["rows"]),
    ):
        if row[name] != count:
            yield f"{name} is {row[name]}, but the ledger has {count}"
    if row["active_chunks"] + row["completed_chunks"] + row["failed_chunks"] > row["total_chunks"]:
        yield f"more chunks than there are: {row}"
    if row["valid_images"] > row["max_images"]:
        yield f"{row['valid_images']} images of {row['max_images']}"
    if not 0 <= row["progress"] <= 100 or (row["progress"] == 100) != (row["status"] == "completed"):
        yield f"progress {row['progress']} of a job that is {row['status']}"
    if before:
        yield from (f"{name} fell from {before[name]} to {row[name]}" for name in RISING if row[name] < before[name])


def children(pid: int) -> Sequence[int]:
    """Ids of the child processes of a process."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


#: Ten kinds of faults, with their rejection reasons.
BROKEN = {
    "404": "not_found",
    "500": "server_error",
    "reset": "reset",
    "truncated": "truncated",
    "html": "not_an_image",
    "html-as-jpeg": "not_an_image",
    "endless": "too_many_bytes",
    "redirect-loop": "too_many_redirects",
    "slow": "timeout",
    "truncated-image": "corrupt",
}


def url_list(host: str, *, good: int, broken: int) -> tuple[list[str], Counter[str]]:
    """A shuffled list of URLs, and the counts of the rejection reasons of its broken ones."""
    kinds = [kind for kind, _ in zip(list(BROKEN) * broken, range(broken), strict=False)]
    listed = [f"{host}/good/{n}.jpg" for n in range(good)]
    listed += [f"{host}/fault/{kind}/{n}" for n, kind in enumerate(kinds)]
    random.Random(good).shuffle(listed)
    return listed, Counter(BROKEN[kind] for kind in kinds)


def wait_for_server(url: str, *, seconds: float = 30) -> None:
    """Wait until a web server on this machine responds with success."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def send(stack: Stack, task: Task, *args: object, queue: str = "crawl", times: int = 1) -> None:
    """Send a message as an API does that has only Celery."""
    with Celery(broker=stack.broker_url) as app:
        for _ in range(times):
            app.send_task(task.value, args=args, queue=queue)

"""Jobs of every kind with real workers while the database or the storage says "not now": nothing is lost.

The short outages are part of the gate. The long ones, 15 s with a lease of 10 s and a sweep every second, belong to
`make test-scale`; alone: `pytest -m scale --timeout=1800 -n 2 tests/acceptance/test_outages.py`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import ledger
import outages
import psycopg
import pytest
from acceptance_stack import Stack, send
from chaos.services import Storage as Volume
from export import exporting
from export.exporting import StoredImage
from fakes import s3

from pixcrawler_worker import runtime as connections
from pixcrawler_worker import settings
from pixcrawler_worker.db import job_rows, session
from pixcrawler_worker.domain.messages import Task

#: Images of each job, and of each chunk of the crawl and of the export.
IMAGES, PER_CHUNK = 60, 10
VALIDATIONS = 3
#: SQLSTATEs that a server answers with for a while.
STATES = {
    "statement timeout": "57014",
    "disk full": "53100",
    "out of memory": "53200",
    "read only": "25006",
    "input/output error": "58030",
    "data corrupted": "XX001",
    "serialization failure": "40001",
    "starting up": "57P03",
    "too many connections": "53300",
    "internal error": "XX000",
}
RECOVERY = {"PIXCRAWLER_LEASE_SECONDS": "10", "PIXCRAWLER_SWEEP_SECONDS": "1"}

_OPEN = " UNION ALL ".join(f"SELECT status FROM {kind}_jobs" for kind in ("crawl", "validation", "export"))
_ENDED = f"SELECT NOT bool_or(status IN ('pending', 'running')) FROM ({_OPEN}) AS jobs"
_END = f"""
    SELECT (SELECT count(*) FROM ({_OPEN}) AS jobs WHERE status <> 'completed') AS jobs,
        (SELECT count(*) FROM pixcrawler.chunks WHERE state <> 'completed') AS chunks,
        (SELECT sum(crash_count) FROM pixcrawler.chunks) AS crashes,
        (SELECT sum(failed_chunks + active_chunks) FROM crawl_jobs) AS counted,
        (SELECT count(*) FROM pixcrawler.verdicts WHERE findings @> '[["decode"]]') AS unreadable,
        (SELECT count(*) FROM images JOIN crawl_jobs job ON job.id = crawl_job_id WHERE job.id = %s
            AND valid_images = {IMAGES}) AS crawled,
        (SELECT array_agg(validated_images + invalid_images) FROM validation_jobs) AS validated,
        (SELECT array_agg(exported_images) FROM export_jobs) AS exported
"""


@dataclass
class Jobs:
    """A crawl that is under way, and a crawl that has ended, whose images are validated and exported."""

    stack: Stack
    storage_url: str
    crawl: int
    ended: int

    def start_others(self) -> None:
        """Start the validations and the export."""
        options = {"archive": {"part_max_images": PER_CHUNK}}
        with self.stack.sessions.begin() as session:
            validations = [
                job_rows.create_validation_job(
                    session, crawl_job_id=self.ended, name="check", rules={"level": "strict"}
                )
                for _ in range(VALIDATIONS)
            ]
            export = job_rows.create_export_job(
                session, crawl_job_id=self.ended, name="all", format_="zip", options=options
            )
        for one in validations:
            send(self.stack, Task.VALIDATION_START, one, queue="validation")
        send(self.stack, Task.EXPORT_START, export, queue="export")

    def wait_until_ended(self, *, seconds: float) -> None:
        """Wait until all jobs have ended, and assert that nothing was lost and no worker counted as dead."""
        deadline = time.monotonic() + seconds
        while self.stack.query(_ENDED) != [(True,)]:
            assert time.monotonic() < deadline, f"not in {seconds} s\n{self.stack.log()[-4000:]}"
            time.sleep(0.1)
        (found,) = self.stack.query(_END, self.crawl)
        assert found == (0, 0, 0, 0, 0, IMAGES, [IMAGES] * VALIDATIONS, [IMAGES]), self.stack.log()[-6000:]
        assert self.stack.named_files(self.crawl) <= self._files(), "a row without a file"

    def _files(self) -> set[str]:
        async def urls() -> set[str]:
            storage = runtime.storage
            return {storage.url(key) async for key in storage.keys(f"crawl_jobs/{self.crawl}/")}

        with connected(self.stack, self.storage_url) as runtime:
            return runtime.run(urls())


@contextmanager
def connected(stack: Stack, storage_url: str) -> Iterator[connections.Runtime]:
    loaded = settings.load(database_url=stack.database_url, data_dir=stack.data_dir, storage_url=storage_url)
    with contextlib.closing(connections.connect(loaded)) as opened:
        yield opened


@contextmanager
def crawling(stack: Stack, host: str, storage_url: str | None = None, **env: str) -> Iterator[Jobs]:
    """Run a crawl that has completed some of its chunks."""
    storage_url = storage_url or (stack.data_dir / "storage").as_uri()
    ledger.execute(stack.sessions, "DELETE FROM profiles")
    outages.end(stack.sessions)
    with connected(stack, storage_url) as runtime:
        ended = exporting.crawl_of(runtime, [StoredImage(exporting.image_bytes(number)) for number in range(IMAGES)])
    env = {"PIXCRAWLER_STORAGE_URL": storage_url, "PIXCRAWLER_FETCH_CONCURRENCY": "4", **env}
    with stack.worker(concurrency=3, **env):
        job_id = stack.make_job(max_images=IMAGES)
        urls = [f"{host}/good/{number}.jpg" for number in range(IMAGES)]
        send(stack, Task.CRAWL_START, job_id, {"urls": urls, "chunk_size": PER_CHUNK})
        stack.wait(job_id, until=lambda row: row["completed_chunks"] > 0)
        yield Jobs(stack, storage_url, job_id, ended)


# The database


def refuse_results(stack: Stack, state: str | None = None, *, slow: float | None = None, seconds: float) -> None:
    """Let the database refuse images, validation results, the ends of chunks, and to extend and to end leases."""
    for event in ("image", "verdict", "finish", "lease"):
        outages.begin(stack.sessions, event, state, slow=slow, seconds=seconds)


def test_a_short_outage_of_the_database_costs_no_kind_of_job_anything(stack: Stack, slow_host: str) -> None:
    """It is longer than two leases."""
    with crawling(stack, slow_host, PIXCRAWLER_LEASE_SECONDS="1") as jobs:
        refuse_results(stack, "53100", seconds=2.5)
        jobs.start_others()
        jobs.wait_until_ended(seconds=60)


@pytest.mark.scale
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_an_outage_of_the_database_costs_no_kind_of_job_anything(stack: Stack, slow_host: str, state: str) -> None:
    with crawling(stack, slow_host, **RECOVERY) as jobs:
        refuse_results(stack, state, seconds=15)
        jobs.start_others()
        jobs.wait_until_ended(seconds=120)


@pytest.mark.scale
def test_a_database_that_is_slow_for_50_seconds_costs_nothing_with_the_default_settings(
    stack: Stack, slow_host: str
) -> None:
    """Every write then meets the worker's own statement timeout."""
    defaults = {"PIXCRAWLER_LEASE_SECONDS": "60", "PIXCRAWLER_SWEEP_SECONDS": "10"}
    with crawling(stack, slow_host, **defaults) as jobs:
        refuse_results(stack, slow=20, seconds=50)
        jobs.start_others()
        jobs.wait_until_ended(seconds=240)


@pytest.mark.scale
def test_an_outage_that_outlasts_the_time_of_a_transition_costs_work_and_nothing_else(
    stack: Stack, slow_host: str
) -> None:
    with crawling(stack, slow_host, **RECOVERY) as jobs:
        refuse_results(stack, "53100", seconds=100)
        jobs.start_others()
        jobs.wait_until_ended(seconds=240)


@contextmanager
def closed(stack: Stack) -> Iterator[None]:
    """Let the database accept no connection, and end those that it has."""
    name = urlsplit(stack.database_url).path.removeprefix("/")
    server = stack.database_url.replace(f"/{name}?", "/postgres?")
    with psycopg.connect(server, autocommit=True) as connection:

        def allow(connections: str) -> None:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}".encode())

        stack.close()
        session.close(stack.sessions)
        allow("false")
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            allow("true")


def test_a_start_message_survives_a_database_that_accepts_no_connection(stack: Stack, slow_host: str) -> None:
    """It is the only thing that knows the options of the job."""
    with stack.worker(concurrency=1):
        job_id = stack.make_job(max_images=2)
        ready = stack.make_job(max_images=1)
        send(stack, Task.CRAWL_START, ready, {"urls": [f"{slow_host}/good/0.jpg"]})
        stack.wait(ready)
        with closed(stack):
            send(stack, Task.CRAWL_START, job_id, {"urls": [f"{slow_host}/good/{number}.jpg" for number in (1, 2)]})
            deadline = time.monotonic() + 60
            while "message put back" not in stack.log():
                assert time.monotonic() < deadline, stack.log()[-4000:]
                time.sleep(0.1)
        stack.wait(job_id)
    assert stack.job(job_id)["valid_images"] == 2


# The storage


@contextmanager
def responding(folder: Path, status: int) -> Iterator[tuple[str, Callable[[float], None], dict[str, str]]]:
    """An S3 server that responds with a status for a while."""
    with s3.serving(folder, checks=False) as server, s3.fronted(server) as front:

        def interrupt(seconds: float) -> None:
            front.status = status
            time.sleep(seconds)
            front.status = None

        yield "s3://bucket/outage", interrupt, s3.variables(front.endpoint)


@contextmanager
def volume(folder: Path, *, full: bool) -> Iterator[tuple[str, Callable[[float], None], dict[str, str]]]:
    """A file system that is full or read only for a while."""
    with contextlib.closing(Volume(folder / "volume")) as mounted:
        mounted.open()
        if not mounted.mounted:
            pytest.skip("only root may mount a file system")
        change = mounted.set_full if full else mounted.set_read_only

        def interrupt(seconds: float) -> None:
            deadline = time.monotonic() + 30
            while not change(True):
                assert time.monotonic() < deadline, "a file is always open"
                time.sleep(0.01)
            time.sleep(seconds)
            assert change(False)

        yield mounted.path.as_uri(), interrupt, {}


Trouble = Callable[[Path], AbstractContextManager[tuple[str, Callable[[float], None], dict[str, str]]]]
TROUBLES: dict[str, Trouble] = {
    "401": lambda folder: responding(folder, 401),
    "403": lambda folder: responding(folder, 403),
    "500": lambda folder: responding(folder, 500),
    "503": lambda folder: responding(folder, 503),
    "full": lambda folder: volume(folder, full=True),
    "read only": lambda folder: volume(folder, full=False),
}


def interrupted(stack: Stack, host: str, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, *, seconds: float) -> None:
    with trouble(stack.data_dir) as (url, interrupt, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with crawling(stack, host, url, **RECOVERY) as jobs:
            jobs.start_others()
            interrupt(seconds)
            jobs.wait_until_ended(seconds=180)


@pytest.mark.parametrize("trouble", ["403", pytest.param("full", marks=pytest.mark.slow)])
def test_a_short_outage_of_the_storage_costs_no_kind_of_job_anything(
    stack: Stack, slow_host: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    interrupted(stack, slow_host, monkeypatch, TROUBLES[trouble], seconds=1.5)


@pytest.mark.scale
@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_outage_of_the_storage_costs_no_kind_of_job_anything(
    stack: Stack, slow_host: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    interrupted(stack, slow_host, monkeypatch, TROUBLES[trouble], seconds=15)

"""What happens to a chunk when its source, its storage, its database or its claim is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import ledger
import psycopg
import pytest
from doubles import (
    StubSource,
    WatchedStorage,
    counted,
    drive,
    first,
    image_urls,
    page_of,
    query,
    start,
    status,
    stub_source,
    the_chunk,
    urls_of,
)
from factories import make_image
from fakes.hosts import HostileServer, serving
from fakes.postgres_proxy import postgres_proxy

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import candidates, crawl_history, images, session
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks, leases
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.domain import storage_keys
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Page, Query

pytestmark = pytest.mark.usefixtures("sound")


# Failures


def failing(error: Exception) -> StubSource:
    def answer(_: Query) -> Page:
        raise error

    return StubSource(answer)


def delay(runtime: Runtime, ref: JobRef) -> float:
    """Return the seconds until the chunk of the job is available again."""
    ((seconds,),) = query(
        runtime,
        "SELECT extract(epoch FROM available_at - clock_timestamp()) FROM pixcrawler.chunks WHERE crawl_job_id = :id",
        id=ref.id,
    )
    return float(seconds)


@pytest.mark.parametrize(
    ("requested", "minimum", "maximum"),
    [(None, 5, 5 * 1.25), (timedelta(seconds=20), 20, 40), (timedelta(minutes=7), 420, 840)],
)
def test_a_failing_source_is_retried_after_the_requested_delay(
    runtime: Runtime, requested: timedelta | None, minimum: float, maximum: float
) -> None:
    busy = replace(runtime, sources={"shelf": failing(TransientError("busy", retry_after=requested))})
    ref, messages = start(busy, sources=["shelf"])
    assert executor.run(busy, CRAWL, first(messages).chunk_id) == []
    found = the_chunk(runtime, ref)
    assert (found.state, found.attempt, found.error) == (ChunkState.QUEUED, 1, "busy")
    assert minimum - 3 < delay(runtime, ref) <= maximum
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.RUNNING


def test_a_source_that_recovers_loses_nothing(runtime: Runtime, host: HostileServer) -> None:
    errors = [TransientError("busy"), TransientError("still busy")]

    def answer(search: Query) -> Page:
        if errors:
            raise errors.pop(0)
        return page_of(image_urls(host, "recovers", 3), search)

    shaky = replace(runtime, sources={"shelf": StubSource(answer)})
    ref, messages = start(shaky, sources=["shelf"])
    for _ in range(3):
        assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.RUNNING
        ledger.make_due(runtime.sessions, ref)
        drive(shaky, messages)
    assert counted(runtime, ref) == (3, 3, 3)
    assert the_chunk(runtime, ref).attempt == 3
    assert the_chunk(runtime, ref).error is None


def test_a_permanent_error_of_a_source_fails_the_chunk(runtime: Runtime) -> None:
    failing_source = replace(runtime, sources={"shelf": failing(PermanentError("no such\x00key"))})
    ref, messages = start(failing_source, sources=["shelf"])
    assert executor.run(failing_source, CRAWL, first(messages).chunk_id) == []
    assert (the_chunk(runtime, ref).state, the_chunk(runtime, ref).error) == (ChunkState.FAILED, "no suchkey")
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.FAILED


def test_a_source_whose_own_file_is_rejected_fails_the_chunk(runtime: Runtime) -> None:
    rejected = replace(runtime, sources={"shelf": failing(RejectedError(Reason.TOO_MANY_BYTES, "the catalog"))})
    ref, messages = start(rejected, sources=["shelf"])
    assert executor.run(rejected, CRAWL, first(messages).chunk_id) == []
    chunk = the_chunk(runtime, ref)
    assert (chunk.state, chunk.error) == (ChunkState.FAILED, "shelf: too_many_bytes: the catalog")


def test_a_source_that_was_uninstalled_fails_the_chunk(runtime: Runtime) -> None:
    there = replace(runtime, sources={"shelf": stub_source()})
    ref, messages = start(there, sources=["shelf"])
    assert executor.run(replace(runtime, sources={}), CRAWL, first(messages).chunk_id) == []
    assert (the_chunk(runtime, ref).state, ledger.crawl_job(runtime.sessions, ref).status) == (
        ChunkState.FAILED,
        JobStatus.FAILED,
    )


def test_options_that_another_version_recorded_fail_the_chunk_and_end_the_job(
    runtime: Runtime, host: HostileServer
) -> None:
    ref, messages = start(runtime, image_urls(host, "version", 1))
    ledger.execute(runtime.sessions, 'UPDATE pixcrawler.crawl_plans SET options = options || \'{"color": "red"}\'')
    drive(runtime, messages)
    sweeper.sweep(runtime, JOB_KINDS.values())
    assert (the_chunk(runtime, ref).state, status(runtime, ref)) == (ChunkState.FAILED, JobStatus.FAILED)
    assert "options.color: unknown option, known are " in str(the_chunk(runtime, ref).error)


def test_a_storage_that_fails_for_good_in_the_middle_of_a_chunk_leaves_no_rows(
    runtime: Runtime, host: HostileServer
) -> None:
    stored: list[str] = []

    def fill_up(key: str) -> None:
        stored.append(key)
        if len(stored) == 3:
            raise PermanentError("no")

    ref, messages = start(runtime, image_urls(host, "full", 8))
    troubled = replace(runtime, storage=WatchedStorage(runtime, put=fill_up))
    assert executor.run(troubled, CRAWL, first(messages).chunk_id) == []
    assert (the_chunk(runtime, ref).state, the_chunk(runtime, ref).error) == (ChunkState.FAILED, "no")
    assert counted(runtime, ref) == (0, 0, 0)


def test_the_last_attempt_ends_the_job(runtime: Runtime) -> None:
    busy = replace(runtime, sources={"shelf": failing(TransientError("busy"))})
    ref, messages = start(busy, sources=["shelf"])
    for attempt in range(1, 6):
        ledger.make_due(runtime.sessions, ref)
        drive(busy, messages)
        assert the_chunk(runtime, ref).attempt == attempt
    assert the_chunk(runtime, ref).state == ChunkState.FAILED
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.FAILED


def test_a_bug_names_itself_and_the_chunk_comes_back(runtime: Runtime, host: HostileServer) -> None:
    bugs = [ZeroDivisionError("a bug")]

    def answer(search: Query) -> Page:
        if bugs:
            raise bugs.pop()
        return page_of(image_urls(host, "bug", 2), search)

    buggy = replace(runtime, sources={"shelf": StubSource(answer)})
    ref, messages = start(buggy, sources=["shelf"])
    assert executor.run(buggy, CRAWL, first(messages).chunk_id) == []
    chunk = the_chunk(runtime, ref)
    assert (chunk.state, chunk.attempt, chunk.crash_count) == (ChunkState.QUEUED, 1, 0)
    assert chunk.error == "ZeroDivisionError: a bug"
    ledger.check(runtime.sessions, ref)
    ledger.make_due(runtime.sessions, ref)
    swept = sweeper.sweep(buggy, JOB_KINDS.values())
    assert (swept.reaped, swept.messages) == (0, messages)
    drive(buggy, messages)
    assert counted(runtime, ref) == (2, 2, 2)
    assert the_chunk(runtime, ref).attempt == 2


# Claims that are lost


@contextmanager
def meanwhile(server: HostileServer, path: str, do: Callable[[], object]) -> Iterator[None]:
    """Call `do` in another thread as soon as an image is requested."""

    def wait() -> None:
        deadline = time.monotonic() + 10
        while not server.hits[path] and time.monotonic() < deadline:
            time.sleep(0.005)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def steal(runtime: Runtime, message: ChunkMessage) -> None:
    ledger.expire_lease(runtime.sessions, message.chunk_id)
    with runtime.sessions.begin() as opened:
        leases.reap(opened, CRAWL_JOBS)
    ledger.claim(runtime.sessions, message.chunk_id, owner="another")


def cancel(runtime: Runtime, _message: ChunkMessage) -> None:
    ((job_id,),) = query(runtime, "SELECT id FROM crawl_jobs")
    submission.cancel(runtime, CRAWL, job_id)


def cancel_by_hand(runtime: Runtime, _message: ChunkMessage) -> None:
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'cancelled', completed_at = now()")


def delete(runtime: Runtime, _message: ChunkMessage) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs")


@pytest.mark.parametrize("lose", [steal, cancel, cancel_by_hand, delete], ids=lambda lose: lose.__name__)
def test_work_whose_claim_is_lost_stops_soon_and_writes_nothing(
    runtime: Runtime, lose: Callable[[Runtime, ChunkMessage], None]
) -> None:
    quick = replace(runtime, settings=runtime.settings.model_copy(update={"lease_seconds": 1}))
    with serving(delay=8) as slow:
        _, messages = start(quick, image_urls(slow, "lost", 2))
        message = first(messages)
        begun = time.monotonic()
        with meanwhile(slow, "/good/lost-0.jpg", partial(lose, runtime, message)):
            assert executor.run(quick, CRAWL, message.chunk_id) == []
        assert time.monotonic() - begun < 6
    assert query(runtime, "SELECT count(*) FROM images") == [(0,)]
    owners = query(runtime, "SELECT owner = 'another' FROM pixcrawler.chunks WHERE state = 'running'")
    assert owners == {"steal": [(True,)], "cancel_by_hand": [(False,)]}.get(lose.__name__, [])


@pytest.mark.parametrize("lose", [steal, cancel, cancel_by_hand, delete], ids=lambda lose: lose.__name__)
def test_a_result_that_comes_after_the_claim_was_lost_is_dropped(
    runtime: Runtime, host: HostileServer, lose: Callable[[Runtime, ChunkMessage], None]
) -> None:
    """The heartbeat has not noticed yet: the fence has to."""
    ref, messages = start(runtime, image_urls(host, f"late-{lose.__name__}", 1))
    watched = WatchedStorage(runtime, put=lambda _: lose(runtime, first(messages)))
    assert executor.run(replace(runtime, storage=watched), CRAWL, first(messages).chunk_id) == []
    assert query(runtime, "SELECT count(*) FROM images") == [(0,)]
    states = ledger.states_of(runtime.sessions, ref)
    expected = {"steal": [ChunkState.RUNNING], "cancel": [ChunkState.CANCELLED], "delete": []}
    assert states == expected.get(lose.__name__, [ChunkState.RUNNING])


def test_a_failure_of_a_lost_claim_does_not_affect_the_valid_one(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "zombie", 1))

    def steal_and_fail(_key: str) -> None:
        steal(runtime, first(messages))
        raise PermanentError("broken")

    watched = replace(runtime, storage=WatchedStorage(runtime, put=steal_and_fail))
    assert executor.run(watched, CRAWL, first(messages).chunk_id) == []
    assert (the_chunk(runtime, ref).state, the_chunk(runtime, ref).owner) == (ChunkState.RUNNING, "another")


def test_a_long_chunk_keeps_its_claim_by_its_heartbeat(runtime: Runtime) -> None:
    quick = replace(runtime, settings=runtime.settings.model_copy(update={"lease_seconds": 2}))
    with serving(delay=2.6) as slow:
        ref, messages = start(quick, image_urls(slow, "long", 1))
        over = threading.Event()
        reaped: list[object] = []

        def reap() -> None:
            while not over.wait(0.05):
                with runtime.sessions.begin() as opened:
                    reaped.extend(filter(None, [leases.reap(opened, CRAWL_JOBS)]))

        thread = threading.Thread(target=reap)
        thread.start()
        try:
            drive(quick, messages)
        finally:
            over.set()
            thread.join()
    assert reaped == []
    assert counted(runtime, ref) == (1, 1, 1)


# A database that goes away


@pytest.mark.parametrize("done", [True, False], ids=["answer lost", "request lost"])
def test_a_commit_without_a_response_counts_once(
    runtime: Runtime, host: HostileServer, database_url: str, *, done: bool
) -> None:
    with postgres_proxy(database_url) as proxy:
        engine = session.connect(proxy.url, pool_size=2)
        shaky = replace(
            runtime,
            sessions=session.sessions(engine),
            storage=WatchedStorage(runtime, put=lambda _: proxy.cut_commit(done=done)),
        )
        ref, messages = start(runtime, image_urls(host, f"commit-{done}", 1))
        assert executor.run(shaky, CRAWL, first(messages).chunk_id) == []
        engine.dispose()
        assert proxy.cuts == 1
    assert counted(runtime, ref) == (1, 1, 1)
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.COMPLETED
    assert the_chunk(runtime, ref).attempt == 1


@pytest.mark.parametrize("done", [True, False], ids=["answer lost", "request lost"])
def test_a_claim_without_a_response_is_found_again(
    runtime: Runtime, host: HostileServer, database_url: str, *, done: bool
) -> None:
    ref, messages = start(runtime, image_urls(host, f"claim-{done}", 1))
    with postgres_proxy(database_url) as proxy:
        engine = session.connect(proxy.url, pool_size=2)
        proxy.cut_commit(done=done)
        assert executor.run(replace(runtime, sessions=session.sessions(engine)), CRAWL, first(messages).chunk_id) == []
        engine.dispose()
        assert proxy.cuts == 1
    assert counted(runtime, ref) == (1, 1, 1)
    assert the_chunk(runtime, ref).attempt == 1


def test_a_session_that_is_cut_off_while_a_chunk_finishes_costs_nothing(
    runtime: Runtime, host: HostileServer, database_url: str
) -> None:
    ref, messages = start(runtime, image_urls(host, "cut-off", 3), chunk_size=3)
    terminated: list[int] = []

    def terminate(blocking: psycopg.Connection[Any]) -> None:
        """Cut the finishing transaction off as soon as it waits for the job's row; then let go of that row."""
        with psycopg.connect(database_url, autocommit=True) as other:
            deadline = time.monotonic() + 5
            while not terminated and time.monotonic() < deadline:
                waiting = other.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'pixcrawler' AND wait_event_type = 'Lock'"
                ).fetchall()
                for (pid,) in waiting:
                    other.execute("SELECT pg_terminate_backend(%s)", [pid])
                    terminated.append(pid)
        blocking.rollback()

    threads: list[threading.Thread] = []
    with closing(psycopg.connect(database_url)) as blocking:

        def block(_key: str) -> None:
            if not threads:
                blocking.execute("SELECT FROM crawl_jobs WHERE id = %s FOR UPDATE", [ref.id])
                threads.append(threading.Thread(target=terminate, args=[blocking]))
                threads[0].start()

        assert (
            executor.run(replace(runtime, storage=WatchedStorage(runtime, put=block)), CRAWL, first(messages).chunk_id)
            == []
        )
        threads[0].join()
    assert len(terminated) == 1
    assert counted(runtime, ref) == (3, 3, 3)
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.COMPLETED


def test_what_another_chunk_decides_meanwhile_is_counted_once(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "decided", 4)
    ref, messages = start(runtime, listed, chunk_size=10)
    outcomes = [
        Outcome(url_hash=storage_keys.url_hash(listed[0]), downloaded=True),
        Outcome(url_hash=storage_keys.url_hash(listed[1]), url=listed[1], reason="not_found"),
    ]
    stored: list[str] = []

    def decide(key: str) -> None:
        stored.append(key)
        if len(stored) == 4:
            with runtime.sessions.begin() as session:
                candidates.record(session, ref.id, outcomes)

    executor.run(replace(runtime, storage=WatchedStorage(runtime, put=decide)), CRAWL, first(messages).chunk_id)
    assert urls_of(runtime, ref) == set(listed[2:]), "what was rejected for good gets no row"
    assert counted(runtime, ref) == (2, 2, 2)
    with runtime.sessions.begin() as session:
        assert crawl_history.reasons(session, ref.id) == {"duplicate_url": 2}


def test_two_chunks_that_finish_at_once_keep_a_limit_that_was_lowered(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "at-once", 20), job={"max_images": 20}, chunk_size=10)
    mine, other = messages
    rival = ledger.claim(runtime.sessions, other.chunk_id)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET max_images = 10")
    url = runtime.storage.url("rival.jpg")
    runtime.run(runtime.storage.put("rival.jpg", b"rival"))
    theirs = [make_image(f"rival {number}", storage_url=url) for number in range(6)]

    with runtime.sessions() as finishing:
        commit = threading.Timer(0.3, finishing.commit)
        stored: list[str] = []

        def finish(key: str) -> None:
            stored.append(key)
            if len(stored) == 10:
                # The rival has written its images, but they are visible only after its commit.
                images.insert_new(finishing, ref.id, theirs)
                result = {"offered": 6, "stored": 6, "left": [], "more": True}
                chunks.finish(finishing, rival, result=result, gains={"valid_images": 6})
                commit.start()

        assert executor.run(replace(runtime, storage=WatchedStorage(runtime, put=finish)), CRAWL, mine.chunk_id) == []
        commit.join()
    assert counted(runtime, ref)[2] == 10
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.COMPLETED


@pytest.mark.parametrize("fetched", [0, 1])
def test_a_chunk_that_fetches_nothing_has_no_room_for_another_one_beside_it(
    runtime: Runtime, host: HostileServer, fetched: int
) -> None:
    ref, messages = start(runtime, image_urls(host, "beside", 3), job={"max_images": 3}, chunk_size=1)
    if not fetched:
        ledger.execute(runtime.sessions, "UPDATE pixcrawler.crawl_urls SET urls = '{}'")
    asked: list[bool] = []

    def requests_wait() -> bool:
        asked.append(True)
        return True  # so that none is claimed

    watched = replace(runtime, requests_wait=requests_wait)
    turns = executor.Turns([CRAWL], postpone=lambda _: None, send=lambda _: None)
    executor.run(watched, CRAWL, messages[0].chunk_id, turns=turns)
    assert bool(asked) == bool(fetched)
    ledger.check(runtime.sessions, ref)


def test_the_quota_of_a_chunk_that_follows_knows_the_images_of_the_one_before(
    runtime: Runtime, host: HostileServer
) -> None:
    ref, messages = start(runtime, image_urls(host, "follows", 20), job={"max_images": 12}, chunk_size=10)
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET payload = payload || '{\"quota\": 10}', dispatched_at = NULL"
        " WHERE crawl_job_id = :id",
        id=ref.id,
    )
    turns = executor.Turns([CRAWL], postpone=lambda _: None)
    executor.run(runtime, CRAWL, messages[0].chunk_id, turns=turns)
    assert status(runtime, ref) is JobStatus.COMPLETED
    assert counted(runtime, ref)[2] == 12
    with runtime.sessions.begin() as opened:
        assert crawl_history.reasons(opened, ref.id) == {}, "none was downloaded for nothing"

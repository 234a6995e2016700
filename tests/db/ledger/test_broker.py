"""Messages that a broker has lost are sent again at once, in batches, by one worker, and once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import ledger
import pytest
from factories import start_job
from ledger import at_once

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import broker, dispatch
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.session import Sessions

LEASE = timedelta(seconds=60)
NOW = timedelta(0)


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> Iterator[None]:
    ledger.execute(sessions, "DELETE FROM profiles")
    ledger.execute(sessions, "UPDATE pixcrawler.broker SET identity = NULL, lost_at = NULL")
    yield
    ledger.execute(sessions, "UPDATE pixcrawler.broker SET identity = NULL, lost_at = NULL")


def note(sessions: Sessions, identity: str, *, gap: timedelta = NOW) -> bool:
    with sessions.begin() as session:
        return broker.note_identity(session, identity, gap=gap)


def suspect(sessions: Sessions, *, age: timedelta = NOW, gap: timedelta = NOW) -> bool:
    with sessions.begin() as session:
        return broker.suspect_loss(session, age=age, gap=gap)


def redispatched(sessions: Sessions, *, limit: int = 500) -> list[int]:
    with sessions.begin() as session:
        found = dispatch.resend_lost(session, CRAWL_JOBS, after=LEASE, limit=limit)
    return [message.chunk_id for message in found]


def dispatched(sessions: Sessions, count: int = 4) -> tuple[JobRef, list[ChunkMessage]]:
    """A job whose messages were sent, and sent again so often that the next time is far away."""
    ref = start_job(sessions, chunks=count)
    with sessions.begin() as session:
        messages = dispatch.next_due(session, ref, limit=count)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatch_count = 9")
    return ref, messages


def counts(sessions: Sessions, ref: JobRef) -> list[tuple[bool, int]]:
    return [(chunk.dispatched_at is not None, chunk.dispatch_count) for chunk in ledger.chunks_of(sessions, ref)]


def test_messages_of_before_a_loss_are_sent_again_at_once_and_once(sessions: Sessions) -> None:
    note(sessions, "first")
    ref, messages = dispatched(sessions)
    assert redispatched(sessions) == []
    assert note(sessions, "second")
    running = ledger.claim(sessions, messages[0].chunk_id)
    expected = [message.chunk_id for message in messages[1:]]
    assert redispatched(sessions, limit=2) == expected[:2], "in batches"
    assert redispatched(sessions, limit=2) == expected[2:]
    assert redispatched(sessions) == []
    assert counts(sessions, ref)[1:] == [(True, 1)] * 3, "the next interval is the first one"
    assert running.chunk_id not in expected


def test_the_first_identity_means_no_loss(sessions: Sessions) -> None:
    dispatched(sessions)
    assert not note(sessions, "first")
    assert not note(sessions, "first")
    assert redispatched(sessions) == []


def test_of_many_workers_one_notes_a_loss(sessions: Sessions) -> None:
    note(sessions, "first")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(3) as threads:
        with sessions.begin() as other:
            # So that all of them have seen the change before the first one notes it.
            other.connection().exec_driver_sql("SELECT FROM pixcrawler.broker FOR UPDATE")
            noting = [threads.submit(note, sessions, "second") for _ in range(3)]
            while query(sessions, waiting) < len(noting):
                time.sleep(0.01)
        assert sorted(one.result() for one in noting) == [False, False, True]


def query(sessions: Sessions, statement: str) -> int:
    with sessions.begin() as session:
        return int(session.connection().exec_driver_sql(statement).scalar_one())


def test_an_identity_that_never_stays_floods_nothing(sessions: Sessions) -> None:
    """As that of a proxy in front of several servers."""
    note(sessions, "first")
    assert note(sessions, "second", gap=LEASE)
    assert not note(sessions, "first", gap=LEASE)
    ledger.execute(sessions, "UPDATE pixcrawler.broker SET lost_at = lost_at - interval '61 s'")
    assert note(sessions, "first", gap=LEASE), "it is not forgotten either"


def test_a_connection_that_came_back_has_messages_sent_again_once(sessions: Sessions) -> None:
    ref, _ = dispatched(sessions)
    assert suspect(sessions, gap=LEASE)
    assert len(redispatched(sessions)) == len(counts(sessions, ref))
    # The others had the same outage: what it may have lost has been sent again since.
    assert suspect(sessions, age=timedelta(seconds=30), gap=LEASE)
    assert redispatched(sessions) == []
    # One that came back later waits for the gap.
    ledger.execute(sessions, "UPDATE pixcrawler.broker SET lost_at = lost_at - interval '10 s'")
    assert not suspect(sessions, age=timedelta(seconds=5), gap=LEASE)
    assert redispatched(sessions) == []
    assert suspect(sessions, age=timedelta(seconds=5), gap=timedelta(seconds=9))
    assert len(redispatched(sessions)) == len(counts(sessions, ref))


def test_messages_that_were_not_sent_are_sent_by_the_next_sweep(sessions: Sessions) -> None:
    ref, messages = dispatched(sessions)
    ledger.claim(sessions, messages[0].chunk_id)
    with sessions.begin() as session:
        assert broker.unsent(session, [message.chunk_id for message in messages[:3]]) == 2
    assert counts(sessions, ref) == [(True, 9), (False, 8), (False, 8), (True, 9)]
    with sessions.begin() as session:
        again = dispatch.next_due(session, ref, limit=9)
    assert again == messages[1:3]
    assert counts(sessions, ref)[1:] == [(True, 9)] * 3, "what was not sent was not counted"


def test_noting_twice_and_at_once_what_was_not_sent_is_harmless(sessions: Sessions) -> None:
    ref, messages = dispatched(sessions)

    def unsent() -> int:
        with sessions.begin() as session:
            return broker.unsent(session, [message.chunk_id for message in messages])

    assert sum(at_once(*[unsent] * 4)) == 4
    assert unsent() == 0
    assert counts(sessions, ref) == [(False, 8)] * 4

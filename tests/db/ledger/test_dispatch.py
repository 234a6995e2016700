"""Which chunks messages are to be sent about: each once, a few at a time, and again when a message got lost."""

from datetime import timedelta
from typing import Any

import ledger
import pytest
from factories import TABLES, start_job
from ledger import at_once

from pixcrawler_worker.db.ledger import chunks, dispatch
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Sessions, transact

every_kind = pytest.mark.parametrize("kind", TABLES, ids=repr)


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Lost messages are looked for among the chunks of all jobs: only those of the test are to be there."""
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


def test_chunks_are_announced_in_order_and_once(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=5)
    expected = [(chunk.id, str(chunk.task_id)) for chunk in ledger.chunks_of(sessions, ref)]
    announced = []
    for limit in (2, 2, 2, 2):
        with sessions.begin() as session:
            announced.append(
                [(message.chunk_id, message.task_id) for message in dispatch.next_due(session, ref, limit=limit)]
            )
    assert announced == [expected[:2], expected[2:4], expected[4:], []]


def test_many_announcers_at_once_announce_each_chunk_once(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=16)
    announce = [lambda: transact(sessions, lambda session: dispatch.next_due(session, ref, limit=4))] * 8
    for _ in range(4):
        announced = [message.chunk_id for messages in at_once(*announce) for message in messages]
        assert len(announced) == len(set(announced))
    assert {chunk.dispatch_count for chunk in ledger.chunks_of(sessions, ref)} == {1}


def test_a_resting_chunk_is_announced_when_its_rest_is_over(sessions: Sessions) -> None:
    ref = start_job(sessions)
    with sessions.begin() as session:
        dispatch.next_due(session, ref, limit=1)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as session:
        chunks.release(session, claim, error="busy", jitter=0.5)
        assert dispatch.next_due(session, ref, limit=1) == []
        assert dispatch.short_of_messages(session, ref.table, window=4) == []
    ledger.make_due(sessions, ref)
    with sessions.begin() as session:
        assert dispatch.short_of_messages(session, ref.table, window=4) == [(ref, 4)]
        assert [message.chunk_id for message in dispatch.next_due(session, ref, limit=1)] == [claim.chunk_id]


@every_kind
def test_jobs_are_short_of_messages_while_their_window_has_room(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, chunks=6, kind=kind)
    with sessions.begin() as session:
        assert dispatch.short_of_messages(session, ref.table, window=4) == [(ref, 4)]
        dispatch.next_due(session, ref, limit=3)
    with sessions.begin() as session:
        assert dispatch.short_of_messages(session, ref.table, window=4) == [(ref, 1)]
        dispatch.next_due(session, ref, limit=1)
        assert dispatch.short_of_messages(session, ref.table, window=4) == []
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as session:
        assert dispatch.short_of_messages(session, ref.table, window=4) == []
        chunks.finish(session, claim, result={}, gains={})
        assert dispatch.short_of_messages(session, ref.table, window=4) == [(ref, 1)]


@every_kind
def test_a_message_is_taken_for_lost_after_a_while_and_later_each_time(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, kind=kind)
    (chunk_id,) = ledger.ids_of(sessions, ref)

    def lost(minutes_ago: float) -> list[Any]:
        ledger.execute(
            sessions,
            "UPDATE pixcrawler.chunks SET dispatched_at = clock_timestamp() - :ago WHERE dispatched_at IS NOT NULL",
            ago=timedelta(minutes=minutes_ago),
        )
        with sessions.begin() as session:
            return dispatch.resend_lost(session, kind, after=timedelta(minutes=1), limit=10)

    assert lost(99) == [], "no worker knows of it yet"
    with sessions.begin() as session:
        dispatch.next_due(session, ref, limit=1)
    for patience in (1, 2, 4, 8, 16, 16, 16):
        assert lost(patience - 0.1) == []
        assert [(message.queue, message.chunk_id) for message in lost(patience + 0.1)] == [(kind.queue, chunk_id)]
    ledger.claim(sessions, chunk_id)
    assert lost(99) == [], "a message arrived"

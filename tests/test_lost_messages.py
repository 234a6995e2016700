"""Messages about whole jobs whose process was ended: they are sent again, and not for ever."""

import pytest

from pixcrawler_worker.celery.lost_messages import LostMessage, LostMessages
from pixcrawler_worker.domain.messages import CHUNK_TASKS, Task

JOB_TASKS = sorted(frozenset(Task) - CHUNK_TASKS - {Task.SWEEP})


@pytest.mark.parametrize("task", JOB_TASKS)
def test_a_message_is_sent_again_as_it_was_and_a_deadly_one_twice(task: Task) -> None:
    lost, sent = LostMessages(), list[LostMessage]()
    options = {"urls": ["https://images.example/1.jpg"]}
    assert [lost.note(task, [7, options], {"x": 1}) for _ in range(4)] == [True, True, False, False]
    assert lost.note(task, (), {"job_id": 7})
    lost.send(sent.append)
    lost.send(sent.append)
    again = LostMessage(task, [7, options], {"x": 1})
    assert sent == [again, again, LostMessage(task, (), {"job_id": 7})]


@pytest.mark.parametrize("task", [*sorted(CHUNK_TASKS), Task.SWEEP, "pixcrawler.crawl.unknown", None])
def test_messages_of_chunks_are_left_to_the_ledger(task: str) -> None:
    lost, sent = LostMessages(), list[LostMessage]()
    assert not lost.note(task, (7,), {})
    lost.send(sent.append)
    assert sent == []


def test_a_message_that_could_not_be_sent_is_sent_later() -> None:
    lost, sent = LostMessages(), list[LostMessage]()
    lost.note(Task.CRAWL_START, (7,), {})
    lost.note(Task.CRAWL_CANCEL, (8,), {})

    def broken(message: LostMessage) -> None:
        raise ConnectionError(message)

    with pytest.raises(ConnectionError):
        lost.send(broken)
    lost.send(sent.append)
    assert [message.args for message in sent] == [(7,), (8,)]


def test_what_is_counted_is_bounded() -> None:
    lost = LostMessages()
    assert [lost.note(Task.CRAWL_START, (0,), {}) for _ in range(3)] == [True, True, False]
    assert all(lost.note(Task.CRAWL_START, (job_id,), {}) for job_id in range(1, 1_500))
    assert lost.note(Task.CRAWL_START, (0,), {}), "the counts begin again"

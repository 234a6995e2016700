import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.crawl.candidate_queue import CandidateQueue
from pixcrawler_worker.crawl.progress import Offer
from pixcrawler_worker.sources.protocol import Candidate
from pixcrawler_worker.web.hosts import Hosts


def offers(*hosts: str | None) -> list[Offer]:
    return [
        Offer(position, Candidate(url=f"http://{host}/{position}"), bytes([position]), host=host)
        for position, host in enumerate(hosts)
    ]


def taken(queue: CandidateQueue, now: float = 0.0) -> list[int]:
    found = []
    while offer := queue.next(now):
        found.append(offer.position)
    return found


def test_candidates_are_taken_in_their_order() -> None:
    queue = CandidateQueue(reversed(offers("a", "b", None, "a")), Hosts())
    assert taken(queue) == [0, 1, 2, 3]
    assert len(queue) == 0


def test_a_host_without_a_place_does_not_hold_up_the_others() -> None:
    async def work() -> list[int]:
        hosts = Hosts({"a": 1})
        queue = CandidateQueue(offers("a", "a", "b", None), hosts)
        async with hosts.place("a"):
            return taken(queue)

    assert asyncio.run(work()) == [2, 3]


def test_a_host_that_is_closed_holds_up_no_other_and_says_for_how_long() -> None:
    hosts = Hosts(jitter=lambda: 0.0, clock=lambda: 100.0)
    asyncio.run(hosts.limited("a", timedelta(seconds=7), sent=100.0))
    queue = CandidateQueue(offers("a", "b", "a"), hosts)
    assert taken(queue) == [1]
    assert queue.wait(0.0) == 7
    assert queue.by_host() == {"a": 2}
    assert [offer.position for offer in queue.take_all("a")] == [0, 2]
    assert (len(queue), queue.wait(0.0)) == (0, 0.0)


def test_what_is_put_back_comes_at_its_place_once_it_is_due() -> None:
    queue = CandidateQueue(offers("a", "a", "a"), Hosts())
    first = queue.next(0.0)
    assert first is not None
    first.due = 5.0
    queue.put_back(first)
    assert queue.wait(1.0) == 0.0
    assert taken(queue, 1.0) == [1, 2]
    assert queue.wait(1.0) == 4.0
    assert taken(queue, 5.0) == [0]


def test_late_ones_come_last() -> None:
    queue = CandidateQueue(offers("a", "a", "a"), Hosts())
    slow = queue.next(0.0)
    assert slow is not None
    slow.late = True
    queue.put_back(slow)
    assert taken(queue) == [1, 2, 0]


@pytest.mark.parametrize("host", ["a", None])
def test_it_knows_whether_more_of_a_host_wait(host: str | None) -> None:
    queue = CandidateQueue(offers(host, host), Hosts())
    queue.next(0.0)
    assert queue.has(host)
    queue.next(0.0)
    assert not queue.has(host)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=60))
def test_none_is_lost_and_none_comes_twice(names: Iterable[str | None]) -> None:
    listed = offers(*names)
    queue = CandidateQueue(listed, Hosts())
    assert taken(queue) == [offer.position for offer in listed]
    assert len(queue) == 0

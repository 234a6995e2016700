"""How hosts are treated by one process: places, waits that they ask for, and pauses for those that do not answer."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from pixcrawler_worker.web import hosts
from pixcrawler_worker.web.hosts import PLACES, Cause, HostClosedError, Hosts

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Hosts:
    return Hosts({"two.example": 2}, clock=clock, jitter=lambda: 0.0)


def run(work: Awaitable[T]) -> T:
    async def wrapped() -> T:
        return await work

    return asyncio.run(wrapped())


def limited(known: Hosts, clock: Clock, seconds: float | None, *, sent: float | None = None) -> HostClosedError:
    wait = None if seconds is None else timedelta(seconds=seconds)
    return run(known.limited("a.example", wait, sent=clock.now if sent is None else sent))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://A.example/x", "a.example"),
        ("https://a.example:443/x", "a.example"),
        ("https://a.example:8443/x", "a.example:8443"),
        ("http://a.example./x", "a.example"),
        ("http://[::1]:81/x", "::1:81"),
    ],
)
def test_a_host_has_one_name(url: str, expected: str) -> None:
    assert hosts.key(URL(url)) == expected


def test_published_limits_hold_with_any_port_and_can_be_changed(known: Hosts) -> None:
    assert (known.limit("two.example"), known.limit("two.example:8080")) == (2, 2)
    assert (known.limit("upload.wikimedia.org"), known.limit("a.example")) == (2, None)
    assert Hosts({"upload.wikimedia.org": 1}).limit("upload.wikimedia.org") == 1


def test_a_host_has_as_many_places_as_its_limit(known: Hosts) -> None:
    assert (known.places("a.example"), known.places("two.example")) == (PLACES, 2)

    async def use() -> list[int]:
        async with known.place("two.example"):
            one = known.places("two.example")
            async with known.place("two.example"):
                return [one, known.places("two.example")]

    assert run(use()) == [1, 0]
    assert known.places("two.example") == 2


def test_who_waits_for_a_place_gets_it_or_is_told_so() -> None:
    known = Hosts({"one.example": 1})

    async def work() -> list[str]:
        done: list[str] = []

        async def hold(name: str, seconds: float, patience: float) -> None:
            try:
                async with known.place("one.example", patience=patience):
                    await asyncio.sleep(seconds)
                    done.append(name)
            except HostClosedError as error:
                done.append(f"{name} {error.cause.name}")

        await asyncio.gather(hold("first", 0.2, 1), hold("second", 0, 1), hold("third", 0, 0.05))
        return done

    assert run(work()) == ["third BUSY", "first", "second"]


@pytest.mark.parametrize("seconds", [0.5, 20, 900, 86_400])
def test_a_host_is_left_alone_for_as_long_as_it_asks(known: Hosts, clock: Clock, seconds: float) -> None:
    closed = limited(known, clock, seconds)
    assert (closed.cause, closed.wait, closed.strikes) == (Cause.LIMITED, timedelta(seconds=seconds), 1)
    assert closed.retry_after == closed.wait
    assert known.places("a.example") == 0
    with pytest.raises(HostClosedError, match="it limits requests"):
        run(known.place("a.example").__aenter__())
    clock.now += seconds
    assert known.closed("a.example") is None
    assert known.places("a.example") == PLACES // 2
    assert known.places("b.example") == PLACES


def test_jitter_only_makes_waits_longer(clock: Clock) -> None:
    known = Hosts(clock=clock, jitter=lambda: 1.0)
    assert limited(known, clock, 10).wait == timedelta(seconds=11)
    clock.now += 3600
    assert limited(known, clock, 100).wait == timedelta(seconds=102)


def test_without_a_retry_after_the_pauses_grow_up_to_a_bound(known: Hosts, clock: Clock) -> None:
    waits = []
    for _ in range(11):
        waits.append(limited(known, clock, None).wait.total_seconds())
        clock.now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert known.places("a.example") == 1


def test_requests_that_were_under_way_when_a_host_closed_say_nothing_new(known: Hosts, clock: Clock) -> None:
    sent = clock.now
    closed = limited(known, clock, None, sent=sent)
    for _ in range(20):
        clock.now += 0.01
        late = limited(known, clock, None, sent=sent)
        assert late.strikes == closed.strikes == 1
    clock.now += 1
    assert known.places("a.example") == PLACES // 2


def test_an_answer_ends_the_row_and_places_come_back_one_by_one(known: Hosts, clock: Clock) -> None:
    for _ in range(3):
        clock.now += limited(known, clock, None).wait.total_seconds()
    assert known.places("a.example") == 1
    places = []
    for _ in range(40):
        run(known.answered("a.example"))
        places.append(known.places("a.example"))
    assert places[0] == 2
    assert places == sorted(places)
    assert places[-1] == PLACES
    assert limited(known, clock, None).strikes == 1


def failed(known: Hosts, clock: Clock, *, at_once: bool = False) -> HostClosedError | None:
    return run(known.failed("a.example", sent=clock.now, at_once=at_once))


def test_a_host_that_does_not_answer_is_closed_after_five_times_in_a_row(known: Hosts, clock: Clock) -> None:
    assert [failed(known, clock) for _ in range(4)] == [None] * 4
    run(known.answered("a.example"))
    assert [failed(known, clock) for _ in range(4)] == [None] * 4
    closed = failed(known, clock)
    assert closed is not None
    assert (closed.cause, closed.wait, closed.strikes) == (Cause.DOWN, timedelta(seconds=2), 1)
    assert known.is_on_probation("a.example")
    assert not known.is_on_probation("b.example")


def test_then_one_request_tries_it_and_pauses_grow_until_it_answers(known: Hosts, clock: Clock) -> None:
    closed = failed(known, clock, at_once=True)
    waits = []
    for _ in range(7):
        assert closed is not None
        waits.append(closed.wait.total_seconds())
        clock.now += waits[-1]
        assert known.places("a.example") == 1
        closed = failed(known, clock)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    assert closed is not None
    assert closed.lasting == timedelta(seconds=sum(waits))
    clock.now += 60
    run(known.answered("a.example"))
    assert not known.is_on_probation("a.example")
    assert known.places("a.example") == 2


def test_what_is_remembered_is_bounded(known: Hosts) -> None:
    for number in range(12_000):
        known.places(f"{number}.example")
    assert len(known) <= 10_000


@given(st.lists(st.sampled_from(["answer", "limit", "fail", "wait"]), max_size=60), st.floats(0, 1, exclude_max=True))
def test_places_stay_within_their_bounds_whatever_happens(events: list[str], jitter: float) -> None:
    clock = Clock()
    known = Hosts(clock=clock, jitter=lambda: jitter)
    for event in events:
        match event:
            case "answer":
                run(known.answered("a.example"))
            case "limit":
                limited(known, clock, None)
            case "fail":
                failed(known, clock)
            case _:
                clock.now += 400
        assert 0 <= known.places("a.example") <= PLACES
    clock.now += 400
    assert 1 <= known.places("a.example") <= PLACES


def test_what_happened_long_ago_is_forgotten(known: Hosts, clock: Clock) -> None:
    for _ in range(8):
        clock.now += limited(known, clock, None).wait.total_seconds()
    clock.now += 601
    assert limited(known, clock, None).strikes == 1
    assert failed(known, clock) is None


def test_a_host_that_limited_requests_gets_its_places_back_with_time(known: Hosts, clock: Clock) -> None:
    limited(known, clock, 10)
    clock.now += 10
    assert known.places("a.example") == PLACES // 2
    clock.now += 4.1
    assert known.places("a.example") == PLACES // 2 + 2
    clock.now += 60
    assert known.places("a.example") == PLACES


def test_a_host_that_does_not_answer_gets_one_request_at_a_time(known: Hosts, clock: Clock) -> None:
    assert run(known.failed("a.example", sent=clock.now, at_once=True)) is not None
    clock.now += 30
    assert known.places("a.example") == 1
    run(known.answered("a.example"))
    clock.now += 60
    assert known.places("a.example") == PLACES


class CountedLooks:
    """What workers share, which only counts how often it is looked at. A look ends after the next turn of the loop."""

    def __init__(self) -> None:
        self.looks: list[Sequence[str]] = []
        self.versions = 0
        self.now: bytes | None = b"1"
        self.fails = False

    async def version(self) -> bytes | None:
        self.versions += 1
        return self.now

    async def look(self, names: Sequence[str]) -> Mapping[str, hosts.Closing] | None:
        self.looks.append(names)
        await asyncio.sleep(0)
        return None if self.fails else {}


def test_requests_to_many_hosts_look_together(clock: Clock) -> None:
    shared = CountedLooks()
    many = Hosts(shared=cast("hosts.SharedKnowledge", shared), clock=clock)
    names = [f"{number}.example" for number in range(50)]

    async def ask() -> None:
        await asyncio.gather(*(many.look([name]) for name in names))

    run(ask())
    assert len(shared.looks) == 2
    assert sorted(name for look in shared.looks for name in look) == sorted(names)


def test_hosts_are_looked_at_again_only_when_some_host_was_closed(clock: Clock) -> None:
    shared = CountedLooks()
    many = Hosts(shared=cast("hosts.SharedKnowledge", shared), clock=clock)

    def look(*names: str) -> tuple[int, Sequence[Sequence[str]]]:
        shared.looks.clear()
        shared.versions = 0
        clock.now += 0.05
        for name in names:
            run(many.look([name]))
        return shared.versions, list(shared.looks)

    assert look("a", "b") == (1, [["a"], ["b"]])
    assert look("a", "b", "a") == (1, [])
    assert look("c", "a") == (1, [["c"]])
    shared.now = b"2"
    assert look("a", "b", "a") == (1, [["a"], ["b"]])
    assert look("a", "b", "c") == (1, [["c"]])
    shared.now = None
    assert look("a", "b") == (1, [["a"], ["b"]]), "without Redis, nothing says that nothing has changed"
    shared.now = b"2"
    shared.fails = True
    assert look("a", "b") == (1, [["a"], ["b"]])
    shared.fails = False
    assert look("a", "b") == (1, [["a"], ["b"]]), "the look before has found nothing out"
    assert look("a", "b") == (1, [])

"""The state for metrics: how fresh it is, and what happens when a part of it cannot be read."""

import threading
from collections.abc import Mapping

import factories
import pytest
from factories import TABLES
from fakes.workers import responding
from structlog.testing import capture_logs

from pixcrawler_worker import settings
from pixcrawler_worker.broker.fork_gate import FORK_GATE
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.monitored_state import MonitoredState
from pixcrawler_worker.settings import Settings

AWAY = "postgresql://postgres:hunter2@127.0.0.1:1/nothing"


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def configured(services: Services, database_url: str, redis_url: str) -> Settings:
    del redis_url  # empty
    broker = services.broker_url.replace("virtual_host=0", "virtual_host=5")
    return settings.load(database_url=database_url, broker_url=broker)


def values(state: MonitoredState) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    return {reading.name: reading.values for reading in state.readings()}


def test_the_state_is_read_again_only_when_it_is_not_fresh_any_more(configured: Settings, sessions: Sessions) -> None:
    clock = Clock()
    state = MonitoredState(configured, TABLES, ask_workers=False, clock=clock)
    before = values(state)["jobs"]["crawl", "pending"]
    factories.make_job(sessions)
    clock.now = 4.9
    assert values(state)["jobs"]["crawl", "pending"] == before
    clock.now = 5.1
    assert values(state)["jobs"]["crawl", "pending"] == before + 1


def test_what_took_long_to_read_is_fresh_for_longer(configured: Settings, sessions: Sessions) -> None:
    clock = Clock()

    def slow() -> float:
        # Each look at the clock takes a second: reading takes one, so it is fresh for 20.
        clock.now += 1
        return clock.now

    state = MonitoredState(configured, TABLES, ask_workers=False, clock=slow)
    first = values(state)
    before = first["jobs"]["crawl", "pending"]
    assert first["state_read_seconds"]["jobs",] == 1
    factories.make_job(sessions)
    clock.now = 10
    assert values(state)["jobs"]["crawl", "pending"] == before
    clock.now = 60
    assert values(state)["jobs"]["crawl", "pending"] == before + 1


def test_no_child_is_forked_while_the_state_is_read(configured: Settings) -> None:
    """What the thread of the endpoint has locked would be locked in the child for ever."""
    asked: list[bool] = []

    def clock() -> float:
        # First whether the state is fresh, then when reading began.
        if len(asked) < 2:
            with FORK_GATE.fork() as may:
                asked.append(may)
        return 0.0

    values(MonitoredState(configured, TABLES, ask_workers=False, clock=clock))
    assert asked == [True, False]


def test_many_requests_at_once_read_once(configured: Settings) -> None:
    state = MonitoredState(configured, TABLES, ask_workers=False, clock=Clock())
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append([id(one.values) for one in state.readings()][:5]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)


def test_a_part_that_cannot_be_read_is_missing_and_says_so_and_the_others_are_there(configured: Settings) -> None:
    clock = Clock()
    broken = settings.load(database_url=AWAY, broker_url=configured.require_broker())
    with capture_logs() as logs:
        state = MonitoredState(broken, TABLES, ask_workers=False, clock=clock)
        found = values(state)
        clock.now = 1000
        values(state)
    assert "jobs" not in found
    assert found["state_read_failed"] == {("jobs",): 1, ("ids",): 1, ("redis",): 0}
    assert found["queue_messages"] == dict.fromkeys([("crawl",), ("validation",), ("export",), ("maintenance",)], 0)
    # Once for each part, and not for each request.
    assert [(line["event"], line["part"]) for line in logs] == [
        ("metrics cannot be read", "jobs"),
        ("metrics cannot be read", "ids"),
    ]
    assert "hunter2" not in str(logs)


def test_workers_are_asked_for_their_queues(configured: Settings) -> None:
    with responding(configured.require_broker(), "crawl", "export"):
        found = values(MonitoredState(configured, TABLES))
    assert found["queue_consumers"] == {("crawl",): 1, ("validation",): 0, ("export",): 1, ("maintenance",): 0}


def test_ids_that_are_used_are_shown(configured: Settings, sessions: Sessions) -> None:
    used = values(MonitoredState(configured, TABLES, ask_workers=False))["ids_used_ratio"]
    assert 0 <= used["images.id",] < 0.01

"""The catalog has what a run promises, and the injector deals every kind."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from chaos import injector
from chaos.__main__ import CATALOGS
from chaos.events import Events
from chaos.faults.catalog import FAULTS, Arena, Fault, SkippedError
from chaos.faults.messages import MALFORMED
from chaos.injector import Injector
from chaos.recovery import Recovery
from chaos.report import Outcome, lines


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with closing(Events(tmp_path / "events.jsonl")) as events:
        parts = SimpleNamespace(events=events, recovery=Recovery(), ended=threading.Event(), now=lambda: 1.0)
        yield cast("Arena", parts)


def test_there_are_more_than_forty_kinds_in_every_group() -> None:
    groups = Counter(one.group for one in FAULTS)
    assert set(groups) == {
        "workers",
        "decoders",
        "machine",
        "redis",
        "postgresql",
        "messages",
        "jobs",
        "storage",
        "hosts",
    }
    assert len(FAULTS) > 100
    assert len(MALFORMED) > 17
    assert CATALOGS


def test_kinds_are_chosen_by_parts_of_their_names() -> None:
    titles = [one.title for one in injector.chosen("redis:,SIGQUIT", "hangs")]
    assert "redis: full" in titles
    assert "workers: SIGQUIT" in titles
    assert not any("hangs" in title or "postgresql" in title for title in titles)
    with pytest.raises(ValueError, match="no fault fits"):
        injector.chosen("no such kind", "")


def test_every_kind_is_dealt_and_none_beside_one_that_excludes_it(arena: Arena) -> None:
    acting: Counter[str] = Counter()
    together: list[int] = []

    def act(_: Arena) -> None:
        acting["alone"] += 1
        together.append(acting["alone"])
        acting["alone"] -= 1

    def skip(_: Arena) -> None:
        raise SkippedError("not now")

    def fail(_: Arena) -> None:
        raise OSError("broken")

    kinds = [Fault(f"{number}", "alone", act, 1, "alone", takes=True) for number in range(5)]
    kinds += [
        Fault("skipped", "other", skip, 1, None, takes=False),
        Fault("failing", "other", fail, 1, None, takes=False),
    ]
    dealt = Injector(arena, kinds, per_second=1000, chance=random.Random(1))
    dealt.start()
    while dealt.applied.total() < 50:
        arena.ended.wait(0.01)
    dealt.stop()
    assert {one.title for one in kinds[:5]} == set(dealt.applied)
    assert dealt.skipped["other: skipped"] > 0
    assert dealt.errors["other: failing"] > 0
    assert set(together) == {1}
    assert len(arena.recovery.disturbances) == dealt.applied.total()


def test_the_report_has_eighty_columns_and_says_what_failed() -> None:
    outcome = Outcome(seconds=60, bound=12, faults={"redis: " + "long " * 30: (1, 2, 3)}, up=[1.0, 2.0])
    outcome.resources = {"memory": (1.0, 2.0)}
    assert list(lines(outcome))[-1] == "passed"
    outcome.violations = {"jobs that did not end": ["crawl job 7"]}
    text = list(lines(outcome))
    assert text[-1] == "FAILED"
    assert "  jobs that did not end: crawl job 7" in text
    assert max(map(len, text)) == 80

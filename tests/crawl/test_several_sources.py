"""Whole jobs over five sources with their providers on loopback, run in this process."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import ledger
import pytest
from doubles import drive, last_details, query, start, status, with_sources
from fakes.api import KEY, Api
from fakes.pexels import Pexels
from fakes.providers import Providers
from several_sources import APIS, KEYWORDS, NAMES, Works, serving, works

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Source, SourceConfig

pytestmark = pytest.mark.usefixtures("sound")

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@dataclass
class World:
    """Five providers, the sources that search them, and a clock that is set by hand."""

    runtime: Runtime
    servers: Providers
    apis: dict[str, Api]
    now: datetime = NOON
    sources: dict[str, Source] = field(default_factory=dict)

    def connect(self, **keys: str) -> None:
        """Let every source begin as in a new process, with other keys than the right ones where they are given."""
        base = {"commons": self.servers.commons_url, "openverse": self.servers.openverse_url}
        base |= {name: api.url for name, api in self.apis.items()}
        for name in NAMES:
            key = keys.get(name, KEY if name in APIS else None)
            clock: dict[str, Any] = {"now": lambda: self.now} if name in {"openverse", "pexels", "unsplash"} else {}
            self.sources[name] = protocol.SOURCES.load(name)(SourceConfig(base_url=base[name], api_key=key), **clock)
        self.runtime = with_sources(self.runtime, **self.sources)

    def start(self, max_images: int, **options: Any) -> tuple[JobRef, list[ChunkMessage]]:
        values: dict[str, Any] = {"sources": list(NAMES), "chunk_size": 20} | options
        return start(self.runtime, job={"keywords": list(KEYWORDS), "max_images": max_images}, **values)

    def run(self, messages: Sequence[ChunkMessage], ref: JobRef) -> None:
        """Run the job to its end without waiting for delayed chunks."""
        drive(self.runtime, messages)
        for _ in range(100):
            waiting = [one.id for one in ledger.chunks_of(self.runtime.sessions, ref) if one.state == "queued"]
            if not waiting:
                return
            ledger.make_due(self.runtime.sessions, ref)
            drive(self.runtime, executor.run(self.runtime, CRAWL, waiting[0]))
        raise AssertionError("the job goes on for ever")

    def pages(self, name: str) -> list[tuple[str, str]]:
        """Return keyword and number of the result pages that a provider has sent."""
        words = ("q", "query", "text")
        return [
            (next(one.query[word] for word in words if word in one.query), one.query["page"])
            for one in self.apis[name].requests
            if "page" in one.query
        ]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def world(runtime: Runtime, stack: ExitStack, found: Works) -> World:
    made = World(runtime, *stack.enter_context(serving(found)))
    made.connect()
    return made


def images_by(runtime: Runtime, ref: JobRef, column: str) -> Counter[str]:
    statement = f"SELECT {column}, count(*) FROM pixcrawler.image_facts WHERE crawl_job_id = :id GROUP BY 1"
    return Counter(dict(query(runtime, statement, id=ref.id)))


def require_sound_rows(runtime: Runtime, ref: JobRef) -> None:
    """Fail unless all images differ, and have a license and an attribution."""
    statement = (
        "SELECT count(*), count(DISTINCT sha256), count(nullif(license, '')), count(nullif(attribution, ''))"
        " FROM images JOIN pixcrawler.image_facts ON image_id = id WHERE images.crawl_job_id = :id"
    )
    ((count, *distinct),) = query(runtime, statement, id=ref.id)
    assert distinct == [count] * 3


def require_balance(classes: Counter[str]) -> None:
    assert set(classes) == set(KEYWORDS)
    assert max(classes.values()) <= 1.1 * min(classes.values())


SUPPLIES: dict[str, dict[str, Sequence[int]]] = {
    "all sources have as much": dict.fromkeys(NAMES, (14, 14, 14)),
    "every class has another source": {
        "commons": (50, 2, 12),
        "openverse": (3, 45, 12),
        "flickr": (0, 10, 12),
        "pexels": (1, 0, 12),
        "unsplash": (10, 4, 12),
    },
}


@pytest.mark.parametrize("supply", SUPPLIES)
def test_three_keywords_over_five_sources_bring_exactly_the_images_in_even_classes(
    runtime: Runtime, stack: ExitStack, supply: str
) -> None:
    there = world(runtime, stack, works(SUPPLIES[supply]))
    ref, messages = there.start(45)
    there.run(messages, ref)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images) == (JobStatus.COMPLETED, 45)
    require_balance(images_by(runtime, ref, "label"))
    require_sound_rows(runtime, ref)
    assert set(images_by(runtime, ref, "source")) == set(NAMES)
    reasons = last_details(runtime, ref)["reasons"]
    assert {"duplicate_bytes", "not_found"} <= reasons.keys()
    for name in ("pexels", "unsplash"):
        pages = there.pages(name)
        assert len(pages) == len(set(pages)), f"a page of {name} is searched twice"


def test_sources_of_a_keyword_take_turns_from_the_beginning(runtime: Runtime, stack: ExitStack) -> None:
    there = world(runtime, stack, works(SUPPLIES["all sources have as much"]))
    ref, messages = there.start(45)
    parts = [chunk.payload for chunk in ledger.chunks_of(runtime.sessions, ref)]
    first = [(part["label"], part["source"]) for part in parts[: len(KEYWORDS) * len(NAMES)]]
    assert first == [(keyword, name) for keyword in KEYWORDS for name in NAMES]
    submission.cancel(runtime, CRAWL, ref.id)
    drive(there.runtime, messages)


def test_what_a_rare_keyword_lacks_is_shared_out_among_the_others(runtime: Runtime, stack: ExitStack) -> None:
    found = works(dict.fromkeys(NAMES, (2, 16, 16)))
    there = world(runtime, stack, found)
    ref, messages = there.start(45)
    there.run(messages, ref)
    classes = images_by(runtime, ref, "label")
    assert sum(classes.values()) == 45
    assert classes["red panda"] == len(
        {work.file for of_source in found.values() for work in of_source["red panda"] if not work.dead}
    )
    assert classes["red panda"] < 10
    assert abs(classes["snow leopard"] - classes["barn owl"]) <= 1
    require_sound_rows(runtime, ref)


def test_sources_with_a_wrong_key_or_without_requests_leave_their_share_to_the_others(
    runtime: Runtime, stack: ExitStack
) -> None:
    there = world(runtime, stack, works(dict.fromkeys(NAMES, (60, 60, 60))))
    there.connect(flickr="wrong", unsplash="wrong")
    pexels = there.apis["pexels"]
    assert isinstance(pexels, Pexels)
    pexels.remaining, pexels.resets_at = 0, int((NOON + timedelta(days=1)).timestamp())
    ref, messages = there.start(24)
    there.run(messages, ref)
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 24
    require_balance(images_by(runtime, ref, "label"))
    assert set(images_by(runtime, ref, "source")) == {"commons", "openverse"}
    errors = " ".join(last_details(runtime, ref)["errors"])
    assert "PIXCRAWLER_FLICKR_API_KEY" in errors
    assert "PIXCRAWLER_UNSPLASH_API_KEY" in errors
    assert "pexels has no requests left" in errors
    assert "wrong" not in errors
    # What a provider says at once is not asked for page after page.
    assert len(pexels.requests) == 1


@pytest.mark.parametrize("process", ["the same", "a new one"])
def test_a_quota_that_runs_out_ends_the_job_with_the_reason_and_a_retry_on_the_next_day_resumes(
    runtime: Runtime, stack: ExitStack, process: str
) -> None:
    there = world(runtime, stack, works({"pexels": (30, 30, 30)}, repeated=0, dead=0))
    pexels = there.apis["pexels"]
    assert isinstance(pexels, Pexels)
    tomorrow = NOON + timedelta(days=1)
    pexels.remaining, pexels.resets_at = 5, int(tomorrow.timestamp())
    ref, messages = there.start(90, chunk_size=10, sources=["pexels"])
    there.run(messages, ref)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images) == (JobStatus.COMPLETED, 50)
    assert job.failed_chunks >= 4
    (error,) = last_details(runtime, ref)["errors"]
    assert "pexels has no requests left until 2026-05-02 12:00 UTC" in error
    assert "retry the job" in error
    assert len(pexels.requests) == 5, "nothing is requested in vain"

    # Too early: nothing is requested, and the job ends as before.
    there.run(submission.retry(there.runtime, CRAWL, ref.id), ref)
    assert (len(pexels.requests), ledger.crawl_job(runtime.sessions, ref).valid_images) == (5, 50)

    there.now, pexels.remaining, pexels.resets_at = tomorrow, 200, 0
    if process == "a new one":
        there.connect()
    there.run(submission.retry(there.runtime, CRAWL, ref.id), ref)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images, job.failed_chunks) == (JobStatus.COMPLETED, 90, 0)
    assert set(images_by(runtime, ref, "label").values()) == {30}
    pages = there.pages("pexels")
    assert len(pages) == len(set(pages)), "no page is requested twice"
    assert set(pages) >= {(keyword, page) for keyword in KEYWORDS for page in "123"}


def test_a_quota_that_has_more_in_a_few_minutes_is_waited_for(runtime: Runtime, stack: ExitStack) -> None:
    there = world(runtime, stack, works({"pexels": (20, 20, 20)}, repeated=0, dead=0))
    pexels = there.apis["pexels"]
    assert isinstance(pexels, Pexels)
    pexels.remaining, pexels.resets_at = 1, int((NOON + timedelta(minutes=10)).timestamp())
    ref, messages = there.start(60, sources=["pexels"])
    drive(there.runtime, messages)
    assert status(runtime, ref) is JobStatus.RUNNING
    ((waits,),) = query(runtime, "SELECT max(available_at) - clock_timestamp() FROM pixcrawler.chunks")
    assert timedelta(minutes=9) < waits < timedelta(minutes=21)
    there.now, pexels.remaining = NOON + timedelta(minutes=10), 200
    there.run([], ref)
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 60
    assert len(there.pages("pexels")) == 3

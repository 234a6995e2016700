"""Whole crawl jobs in pure Python: rounds are planned and run until nothing is left to plan."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.crawl_planning import CrawlChunk, CrawlChunkResult, SourceLimits, next_round
from pixcrawler_worker.domain.keywords import Keyword


@dataclass
class World:
    """What every source has for every keyword: pages of candidates, each a picture (an id) or rubbish (None).

    A stream that breaks does so from a page on; `told` sources say beforehand how many pages they have.
    """

    streams: dict[tuple[str, str], list[list[int | None]]]
    broken: dict[tuple[str, str], int]
    told: bool

    def sources(self, page_size: int) -> dict[str, SourceLimits]:
        names = sorted({source for _, source in self.streams})
        pages = {name: max(len(self.streams[key]) for key in self.streams if key[1] == name) for name in names}
        return {name: SourceLimits(page_size, pages[name] if self.told else None) for name in names}

    def run(self, part: CrawlChunk, seen: set[int]) -> CrawlChunkResult:
        """Do what a chunk does: judge candidates in order until the quota is met."""
        key = (part.query, part.source)
        if part.page >= self.broken.get(key, 10**6):
            return CrawlChunkResult(chunk=part, failed=True)
        pages = self.streams[key]
        page = pages[part.page] if part.page < len(pages) else []
        positions = list(range(len(page)) if part.only is None else part.only)
        offered = stored = 0
        while positions and stored < part.quota:
            picture = page[positions.pop(0)]
            offered += 1
            if picture is not None and picture not in seen:
                seen.add(picture)
                stored += 1
        more = part.page + 1 < len(pages)
        return CrawlChunkResult(chunk=part, offered=offered, stored=stored, left=tuple(positions), more=more)


@st.composite
def worlds(draw: st.DrawFn, *, unique: bool, breaking: bool) -> tuple[World, int]:
    """A world, and the size of its pages."""
    page_size = draw(st.integers(1, 4))
    picture = st.none() | st.integers(0, 15)
    pages = st.lists(st.lists(picture, max_size=page_size), min_size=1, max_size=3)
    queries, sources = draw(st.sampled_from([("cat",), ("cat", "dog", "owl")])), draw(st.sampled_from(["a", "ab"]))
    streams = {(query, source): draw(pages) for query in queries for source in sources}
    if unique:
        numbers = iter(range(10**6))
        streams = {
            key: [[None if picture is None else next(numbers) for picture in page] for page in pages]
            for key, pages in streams.items()
        }
    broken = draw(st.dictionaries(st.sampled_from(sorted(streams)), st.integers(0, 3))) if breaking else {}
    return World(streams, broken, draw(st.booleans())), page_size


def crawl(
    world: World, classes: Sequence[Keyword], max_images: int, page_size: int
) -> tuple[list[CrawlChunkResult], set[int]]:
    """Plan and run rounds until there is nothing left to plan; return what happened and the pictures that came."""
    history: list[CrawlChunkResult] = []
    pictures: set[int] = set()
    for _ in range(200):
        slices = next_round(keywords=classes, sources=world.sources(page_size), max_images=max_images, history=history)
        if not slices:
            return history, pictures
        assert sum(part.quota for part in slices) <= max_images - len(pictures)
        history += [world.run(part, pictures) for part in slices]
        assert len(pictures) <= max_images
        assert sum(outcome.stored for outcome in history) == len(pictures)
    raise AssertionError("the job goes on for ever")


def named(world: World) -> list[Keyword]:
    return [Keyword(query, query) for query in sorted({query for query, _ in world.streams})]


@settings(deadline=None)
@given(worlds(unique=False, breaking=False), st.integers(1, 40))
def test_a_job_gets_every_image_it_wants_when_they_exist(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    _, pictures = crawl(world, named(world), max_images, page_size)
    there = {picture for pages in world.streams.values() for page in pages for picture in page if picture is not None}
    assert len(pictures) == min(max_images, len(there))


@settings(deadline=None)
@given(worlds(unique=True, breaking=False), st.integers(1, 40), st.lists(st.none() | st.integers(1, 9), min_size=3))
def test_limits_of_classes_hold_and_leave_the_rest_to_others(
    case: tuple[World, int], max_images: int, limits: list[int | None]
) -> None:
    world, page_size = case
    classes = [replace(keyword, max_images=limit) for keyword, limit in zip(named(world), limits, strict=False)]
    history, pictures = crawl(world, classes, max_images, page_size)
    reachable = 0
    for keyword in classes:
        stored = sum(outcome.stored for outcome in history if outcome.chunk.query == keyword.query)
        there = sum(
            picture is not None
            for (query, _), pages in world.streams.items()
            if query == keyword.query
            for page in pages
            for picture in page
        )
        limit = there if keyword.max_images is None else min(there, keyword.max_images)
        assert stored <= limit
        reachable += limit
    assert len(pictures) == min(max_images, reachable)


@settings(deadline=None)
@given(worlds(unique=False, breaking=True), st.integers(1, 40))
def test_a_job_ends_when_sources_break_and_what_works_is_used_up(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    history, pictures = crawl(world, named(world), max_images, page_size)
    sound = {
        picture
        for key, pages in world.streams.items()
        if key not in world.broken
        for page in pages
        for picture in page
        if picture is not None
    }
    assert min(max_images, len(sound)) <= len(pictures) <= max_images
    failures = Counter((outcome.chunk.query, outcome.chunk.source) for outcome in history if outcome.failed)
    assert set(failures) <= set(world.broken)


@settings(deadline=None)
@given(worlds(unique=False, breaking=False), st.integers(1, 40))
def test_no_candidate_is_judged_twice(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    history, _ = crawl(world, named(world), max_images, page_size)
    for key, pages in world.streams.items():
        offered = sum(o.offered for o in history if (o.chunk.query, o.chunk.source) == key)
        assert offered <= sum(map(len, pages))

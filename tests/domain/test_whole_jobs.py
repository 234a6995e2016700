"""Whole crawl jobs in pure Python: rounds are planned and run until nothing is left to plan."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from factories import make_history
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.crawl_planning import SourceLimits, next_round
from pixcrawler_worker.domain.keywords import Keyword


@dataclass
class World:
    """Result pages of every source for every keyword; a candidate is an image (its id) or is rejected (None).

    Attributes:
        streams: result pages by keyword and source.
        broken: the page from which on a stream fails.
        has_limits: whether the sources know how many pages they have.
    """

    streams: dict[tuple[str, str], list[list[int | None]]]
    broken: dict[tuple[str, str], int]
    has_limits: bool

    def sources(self, page_size: int) -> dict[str, SourceLimits]:
        names = sorted({source for _, source in self.streams})
        pages = {name: max(len(self.streams[key]) for key in self.streams if key[1] == name) for name in names}
        return {name: SourceLimits(page_size, pages[name] if self.has_limits else None) for name in names}

    def run(self, chunk: CrawlChunk, seen: set[int]) -> CrawlChunkResult:
        """Do what a chunk does: process candidates in order until the quota is met."""
        key = (chunk.query, chunk.source)
        if chunk.page >= self.broken.get(key, 10**6):
            return CrawlChunkResult(chunk=chunk, failed=True)
        pages = self.streams[key]
        page = pages[chunk.page] if chunk.page < len(pages) else []
        positions = list(range(len(page)) if chunk.only is None else chunk.only)
        offered = stored = 0
        while positions and stored < chunk.quota:
            image = page[positions.pop(0)]
            offered += 1
            if image is not None and image not in seen:
                seen.add(image)
                stored += 1
        more = chunk.page + 1 < len(pages)
        return CrawlChunkResult(chunk=chunk, offered=offered, stored=stored, left=tuple(positions), more=more)


@st.composite
def worlds(draw: st.DrawFn, *, unique: bool, breaking: bool) -> tuple[World, int]:
    """A world, and the size of its pages."""
    page_size = draw(st.integers(1, 4))
    image = st.none() | st.integers(0, 15)
    pages = st.lists(st.lists(image, max_size=page_size), min_size=1, max_size=3)
    queries, sources = draw(st.sampled_from([("cat",), ("cat", "dog", "owl")])), draw(st.sampled_from(["a", "ab"]))
    streams = {(query, source): draw(pages) for query in queries for source in sources}
    if unique:
        numbers = iter(range(10**6))
        streams = {
            key: [[None if image is None else next(numbers) for image in page] for page in pages]
            for key, pages in streams.items()
        }
    broken = draw(st.dictionaries(st.sampled_from(sorted(streams)), st.integers(0, 3))) if breaking else {}
    return World(streams, broken, draw(st.booleans())), page_size


def crawl(
    world: World, classes: Sequence[Keyword], max_images: int, page_size: int
) -> tuple[list[CrawlChunkResult], set[int]]:
    """Plan and run rounds until there is nothing left to plan; return the results and the images."""
    history: list[CrawlChunkResult] = []
    images: set[int] = set()
    for _ in range(200):
        chunks = next_round(
            keywords=classes, sources=world.sources(page_size), max_images=max_images, history=make_history(history)
        )
        if not chunks:
            return history, images
        assert sum(chunk.quota for chunk in chunks) <= max_images - len(images)
        history += [world.run(chunk, images) for chunk in chunks]
        assert len(images) <= max_images
        assert sum(result.stored for result in history) == len(images)
    raise AssertionError("the job goes on for ever")


def named(world: World) -> list[Keyword]:
    return [Keyword(query, query) for query in sorted({query for query, _ in world.streams})]


@settings(deadline=None)
@given(worlds(unique=False, breaking=False), st.integers(1, 40))
def test_a_job_gets_all_its_images_when_they_exist(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    _, images = crawl(world, named(world), max_images, page_size)
    there = {image for pages in world.streams.values() for page in pages for image in page if image is not None}
    assert len(images) == min(max_images, len(there))


@settings(deadline=None)
@given(worlds(unique=True, breaking=False), st.integers(1, 40), st.lists(st.none() | st.integers(1, 9), min_size=3))
def test_limits_of_classes_hold_and_leave_the_rest_to_others(
    case: tuple[World, int], max_images: int, limits: list[int | None]
) -> None:
    world, page_size = case
    classes = [replace(keyword, max_images=limit) for keyword, limit in zip(named(world), limits, strict=False)]
    history, images = crawl(world, classes, max_images, page_size)
    reachable = 0
    for keyword in classes:
        stored = sum(result.stored for result in history if result.chunk.query == keyword.query)
        there = sum(
            image is not None
            for (query, _), pages in world.streams.items()
            if query == keyword.query
            for page in pages
            for image in page
        )
        limit = there if keyword.max_images is None else min(there, keyword.max_images)
        assert stored <= limit
        reachable += limit
    assert len(images) == min(max_images, reachable)


@settings(deadline=None)
@given(worlds(unique=False, breaking=True), st.integers(1, 40))
def test_a_job_ends_when_sources_break_and_the_others_are_exhausted(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    history, images = crawl(world, named(world), max_images, page_size)
    sound = {
        image
        for key, pages in world.streams.items()
        if key not in world.broken
        for page in pages
        for image in page
        if image is not None
    }
    assert min(max_images, len(sound)) <= len(images) <= max_images
    failures = Counter((result.chunk.query, result.chunk.source) for result in history if result.failed)
    assert set(failures) <= set(world.broken)


@settings(deadline=None)
@given(worlds(unique=False, breaking=False), st.integers(1, 40))
def test_no_candidate_is_processed_twice(case: tuple[World, int], max_images: int) -> None:
    world, page_size = case
    history, _ = crawl(world, named(world), max_images, page_size)
    for key, pages in world.streams.items():
        offered = sum(o.offered for o in history if (o.chunk.query, o.chunk.source) == key)
        assert offered <= sum(map(len, pages))


#: How many candidates each of five sources has for a keyword.
SUPPLIES = {
    "equal": [60] * 5,
    "one has most of them": [10, 300, 3, 40, 0],
    "one has all": [500, 0, 0, 0, 0],
    "each has twice as many as the one before": [10, 20, 40, 80, 160],
}


@pytest.mark.parametrize("supply", SUPPLIES)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_few_rounds_bring_all_images_whichever_source_has_them(supply: str, share: float) -> None:
    """Three of ten candidates repeat another one, two of ten are dead; there are not many more than are requested."""
    queries, page_sizes = ("cat", "dog", "owl"), dict(zip("abcde", (50, 20, 100, 80, 30), strict=True))
    for seed in range(10):
        chance = random.Random(seed)
        streams: dict[tuple[str, str], list[list[int | None]]] = {}
        for query in queries:
            files: list[int] = []
            for (source, size), count in zip(page_sizes.items(), SUPPLIES[supply], strict=True):
                found: list[int | None] = []
                for _ in range(count):
                    repeats = files and chance.random() < 0.3
                    files.append(chance.choice(files) if repeats else chance.getrandbits(60))
                    found.append(None if chance.random() < 0.2 else files[-1])
                streams[query, source] = [found[start : start + size] for start in range(0, max(1, count), size)]
        world = World(streams, {}, has_limits=False)
        least = min(
            len({one for (q, _), pages in streams.items() if q == query for page in pages for one in page} - {None})
            for query in queries
        )
        max_images = round(3 * least * share)
        images: set[int] = set()
        history: list[CrawlChunkResult] = []
        for _ in range(5):
            chunks = next_round(
                keywords=named(world),
                sources={source: SourceLimits(size) for source, size in page_sizes.items()},
                max_images=max_images,
                history=make_history(history),
            )
            history += [world.run(chunk, images) for chunk in chunks]
        of_classes = Counter[str]()
        for result in history:
            of_classes[result.chunk.query] += result.stored
        assert len(images) == max_images, seed
        assert max(of_classes.values()) - min(of_classes.values()) <= 1

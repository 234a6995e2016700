"""Doubles that enter through the seams of a runtime, and functions that run a job in this process."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from typing import Any, ClassVar

import factories
import ledger
from fakes.hosts import HostileServer
from ledger import T
from sqlalchemy import text

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import ActivityLog
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import File
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.web.downloader import Downloader, Fetched
from pixcrawler_worker.web.http import AsyncClient
from pixcrawler_worker.web.policy import Policy

#: Called before the real function, with its key or URL; it may raise.
Before = Callable[[str], None]


@dataclass
class StubSource(Source):
    """A source that returns what a function returns, and records its searches."""

    summary: ClassVar[str] = "images of a test"
    terms: ClassVar[str] = "free to test with"
    page_size: ClassVar[int | None] = None
    depth: ClassVar[int | None] = None

    answer: Callable[[Query], Page]
    lacks: str | None = None
    searches: list[Query] = field(default_factory=list)

    def missing(self) -> str | None:
        return self.lacks

    async def search(self, query: Query, http: AsyncClient) -> Page:
        del http
        self.searches.append(query)
        return self.answer(query)


def stub_source(*urls: str, **credit: str) -> StubSource:
    """A source that has these URLs for every keyword, in pages."""
    return StubSource(lambda query: page_of(urls, query, Credit(**credit)))


def page_of(urls: Sequence[str], query: Query, credit: Credit | None = None) -> Page:
    start = query.page * query.page_size
    chosen = urls[start : start + query.page_size]
    found = tuple(Candidate(url=url, credit=credit or Credit()) for url in chosen)
    return Page(found, more=start + len(found) < len(urls))


def with_sources(runtime: Runtime, **sources: Source) -> Runtime:
    """Return the runtime with these sources and no others."""
    return replace(runtime, sources=dict(sources))


class WatchedStorage(Storage):
    """The runtime's own storage, with something done before every read and write; it may raise."""

    def __init__(self, runtime: Runtime, *, put: Before | None = None, get: Before | None = None) -> None:
        super().__init__(runtime.settings.storage())
        self._before_put, self._before_get = put, get

    async def put(self, key: str, body: bytes) -> None:
        if self._before_put:
            self._before_put(key)
        await super().put(key, body)

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if self._before_get:
            self._before_get(key)
        return await super().get(key, max_bytes=max_bytes)

    @contextmanager
    def opened(self, key: str) -> Iterator[FileIO | None]:
        if self._before_get:
            self._before_get(key)
        with super().opened(key) as file:
            yield file


class WatchedDownloader(Downloader):
    """A downloader with something done before every fetch."""

    def __init__(self, runtime: Runtime, fetch: Before) -> None:
        super().__init__(Policy(user_agent="tests", allowed_networks=runtime.settings.allowed_networks))
        self._before_fetch = fetch

    async def fetch(self, url: str, **options: Any) -> Fetched:
        self._before_fetch(url)
        return await super().fetch(url, **options)


class WatchedDecoder(Decoder):
    """A decoder that calls a function with itself and the bytes before each image that it decodes whole."""

    def __init__(self, inspect: Callable[[Decoder, bytes], Any]) -> None:
        super().__init__(Limits())
        self._inspect = inspect

    async def inspect(self, body: bytes) -> ImageFacts:
        self._inspect(self, body)
        return await super().inspect(body)

    async def measure(
        self, body: bytes | File, *, strict: bool = False, seconds: float = math.inf
    ) -> tuple[ImageFacts, Metrics]:
        if isinstance(body, bytes):
            self._inspect(self, body)
        return await super().measure(body, strict=strict, seconds=seconds)


def image_urls(host: HostileServer, name: str, count: int) -> list[str]:
    """Return the URLs of `count` images; the name distinguishes them from those of other tests."""
    return [host.url(f"/good/{name}-{number}.jpg") for number in range(count)]


def make_job(runtime: Runtime, **values: Any) -> JobRef:
    """Return a pending job with its own owner and project."""
    return JobRef(CRAWL_JOBS, factories.make_job(runtime.sessions, **values))


def start(
    runtime: Runtime, urls: Iterable[str] = (), *, job: dict[str, Any] | None = None, **options: Any
) -> tuple[JobRef, list[ChunkMessage]]:
    """Start a job with a URL list or other options; return it with the messages of its first chunks."""
    ref = make_job(runtime, **(job or {}))
    listed = list(urls)
    return ref, submission.start(runtime, CRAWL, ref.id, ({"urls": listed} if listed else {}) | options)


def drive(runtime: Runtime, messages: Iterable[ChunkMessage]) -> None:
    """Run chunks one after the other, with the chunks that follow, until there are none."""
    waiting = deque(messages)
    while waiting:
        waiting.extend(executor.run(runtime, CRAWL, waiting.popleft().chunk_id))


def run(runtime: Runtime, messages: Sequence[ChunkMessage]) -> list[ChunkMessage]:
    """Run the first chunk; return the messages of the chunks to run next."""
    return [*executor.run(runtime, CRAWL, messages[0].chunk_id), *messages[1:]]


def status(runtime: Runtime, ref: JobRef) -> JobStatus:
    return JobStatus(ledger.crawl_job(runtime.sessions, ref).status)


def counted(runtime: Runtime, ref: JobRef) -> tuple[int, int, int]:
    """Candidates found, bodies fetched, rows."""
    job = ledger.crawl_job(runtime.sessions, ref)
    return job.total_images, job.downloaded_images, job.valid_images


def the_chunk(runtime: Runtime, ref: JobRef) -> Chunk:
    """The only one that the job has."""
    return first(ledger.chunks_of(runtime.sessions, ref))


def planned_chunks(runtime: Runtime, ref: JobRef) -> list[tuple[str, str, int, int]]:
    """Source, label, page and quota of every chunk, in order."""
    parts = [found.payload for found in ledger.chunks_of(runtime.sessions, ref)]
    return [(part["source"], part["label"], part["page"], part["quota"]) for part in parts]


def log_of(runtime: Runtime, ref: JobRef) -> list[ActivityLog]:
    """What the job's owner reads about it, oldest first."""
    with runtime.sessions.begin() as session:
        return activity_log.latest(session, ref, limit=1000)[::-1]


def actions(runtime: Runtime, ref: JobRef) -> list[str]:
    return [entry.action.removeprefix("crawl_job.") for entry in log_of(runtime, ref)]


def last_details(runtime: Runtime, ref: JobRef) -> dict[str, Any]:
    """What the newest entry of the log says besides its action."""
    return log_of(runtime, ref)[-1].metadata_ or {}


def urls_of(runtime: Runtime, ref: JobRef) -> set[str]:
    """The addresses that became rows."""
    return {row[0] for row in query(runtime, "SELECT original_url FROM images WHERE crawl_job_id = :id", id=ref.id)}


def files_of(runtime: Runtime, ref: JobRef) -> set[str]:
    """The keys of what lies in storage for the job."""

    async def keys() -> set[str]:
        return {key async for key in runtime.storage.keys(f"crawl_jobs/{ref.id}/")}

    return runtime.run(keys())


def query(runtime: Runtime, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    with runtime.sessions.begin() as session:
        return [tuple(row) for row in session.execute(text(statement), values)]


def first(found: Sequence[T]) -> T:
    """The only one there is."""
    (only,) = found
    return only

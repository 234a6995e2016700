"""The connections of a process, made from its settings."""

import asyncio
import contextlib
import contextvars
import os
import platform
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Self, TypeVar

from pydantic import SecretStr

from pixcrawler_worker import settings
from pixcrawler_worker.db import session
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.placeholders import Placeholders
from pixcrawler_worker.inspection import placeholders
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.settings import Settings, of_source
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Source, SourceConfig
from pixcrawler_worker.sources.recent_pages import RecentPages
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Hosts
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.robots_cache import SharedRobots
from pixcrawler_worker.web.shared_hosts import RedisHosts
from pixcrawler_worker.web.slots import FetchSlots

T = TypeVar("T")

#: Transactions at a time beside the event loop. There are as many connections to the database.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Runtime:
    """Connections to everything outside of the process. Open it once per process, after a fork.

    Nothing connects before its first use: a process that only sweeps has no decoder and no HTTP client.

    Attributes:
        settings: of the process.
        sessions: transactions in the database.
        storage: files of images and exports.
        downloader: requests to untrusted hosts.
        decoder: decodes untrusted bytes.
        placeholders: images that hosts send in place of missing ones.
        loop: runs the work of chunks.
        sources: those that were used so far, by name.
        recent_pages: result pages that were searched lately.
        requests_wait: returns whether messages about whole jobs (start, cancel, retry) wait for a process.
        show_progress: shows how many images the running chunk has so far.
        take_more: says that this process has room for a further chunk. It may be called often.
        is_stopping: returns whether this process is to end soon: its chunks leave the rest of their work to others.
        threads: run transactions beside the event loop. No work of a chunk uses them, so that none waits for a storage.
    """

    settings: Settings
    sessions: Sessions
    storage: Storage
    downloader: Downloader
    decoder: Decoder
    placeholders: Placeholders
    loop: asyncio.AbstractEventLoop
    sources: dict[str, Source] = field(default_factory=dict)
    recent_pages: RecentPages = field(default_factory=RecentPages)
    requests_wait: Callable[[], bool] = lambda: False
    show_progress: Callable[[int], None] = lambda _: None
    take_more: Callable[[], None] = lambda: None
    is_stopping: Callable[[], bool] = lambda: False
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "transactions"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop of this process, whose connections stay open, and return its result."""
        task = self.loop.create_task(work)
        try:
            return self.loop.run_until_complete(task)
        finally:
            # Celery's time limit is raised in the loop and not in the task, which must not continue in the next run. A
            # KeyboardInterrupt is raised a second time by the task group that it interrupted.
            if not task.done():
                task.cancel()
                with contextlib.suppress(KeyboardInterrupt):
                    self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.downloader.rest())
            if task.done() and not task.cancelled():
                # Retrieved, so that asyncio does not log it again when the task is garbage-collected.
                task.exception()

    async def in_thread(self, transaction: Callable[[], T]) -> T:
        """Run a transaction beside the event loop, and return its result.

        Once begun, it comes to its end, and a cancellation meanwhile is dropped: what was committed has to be known.
        """
        running = self.loop.run_in_executor(self.threads, contextvars.copy_context().run, transaction)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            return running.result()

    def source(self, name: str) -> Source:
        """Return the source of that name.

        Raises:
            PermanentError: when it is not installed.
        """
        return _loaded(self.sources, name, self.settings)

    def close(self) -> None:
        """Close all connections, and end the process of the decoder. Calling it twice is harmless."""
        if not self.loop.is_closed():
            self.loop.run_until_complete(self.downloader.aclose())
            self.loop.run_until_complete(self.decoder.aclose())
            self.loop.close()
        self.threads.shutdown()
        session.close(self.sessions)


@dataclass(frozen=True, slots=True)
class SearchRuntime:
    """What searching sources needs: no database, no storage and no decoder. Use it as a context, in an event loop.

    Attributes:
        settings: of the process.
        downloader: requests to untrusted hosts.
        placeholders: URLs of images that hosts send in place of missing ones.
        sources: those that were used so far, by name.
    """

    settings: Settings
    downloader: Downloader
    placeholders: Placeholders
    sources: dict[str, Source] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a runtime with these settings. Nothing connects before the first search."""
        return cls(settings, _downloader(settings), placeholders.load(settings.placeholders))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.downloader.aclose()

    def source(self, name: str) -> Source:
        """Return the source of that name.

        Raises:
            PermanentError: when it is not installed.
        """
        return _loaded(self.sources, name, self.settings)


def connect(settings: Settings) -> Runtime:
    """Return a runtime for this process.

    Raises:
        PermanentError: when a setting is missing or invalid; the message says which.
    """
    return Runtime(
        settings=settings,
        sessions=session.sessions(session.connect(settings.require_database())),
        storage=Storage(settings.storage()),
        downloader=_downloader(settings),
        decoder=Decoder(image_limits(settings)),
        placeholders=placeholders.load(settings.placeholders),
        loop=asyncio.new_event_loop(),
    )


def image_limits(settings: Settings) -> Limits:
    """Return what an image may declare, and what its decoding may take, by the settings."""
    limits = Limits(
        max_pixels=settings.max_image_pixels, max_frames=settings.max_image_frames, seconds=settings.decode_seconds
    )
    # With more pixels, in proportion; with fewer, images that take more for each of them may still have what they had.
    share = max(1.0, limits.max_pixels / Limits().max_pixels)
    return replace(limits, max_decoded_bytes=round(limits.max_decoded_bytes * share))


def owner(chunk_id: int) -> str:
    """Return a unique name for a claim: it identifies the claim if the answer to its COMMIT got lost.

    Args:
        chunk_id: from the message that led to the claim, which may be of another chunk.
    """
    return f"{platform.node()}:{os.getpid()}:{chunk_id}.{uuid.uuid4()}"


def local_pid(owner: str) -> int | None:
    """Return the id of the process that made a claim; None if that is on another machine."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    return int(rest) if host == platform.node() and rest.isdecimal() else None


_opened: dict[int, Runtime] = {}


def current() -> Runtime:
    """Return the runtime of this process; the first call opens it with the settings of the environment.

    A forked child opens its own: connections do not survive a fork.
    """
    pid = os.getpid()
    if pid not in _opened:
        _opened[pid] = connect(settings.load())
    return _opened[pid]


def close_current() -> None:
    """Close the runtime of this process, if it is open."""
    if runtime := _opened.pop(os.getpid(), None):
        runtime.close()


def file_downloader(settings: Settings, *, max_bytes: int, deadline: timedelta) -> Downloader:
    """Return a downloader for files that are no images, with the same guard as for these, and on its own.

    Args:
        settings: of the process.
        max_bytes: largest body that is accepted.
        deadline: for one request.
    """
    return Downloader(replace(_policy(settings), max_bytes=max_bytes, deadline=deadline))


def _policy(settings: Settings) -> Policy:
    return Policy(
        user_agent=f"PixCrawler/{version('pixcrawler-worker')} (+{settings.user_agent_contact})",
        max_bytes=settings.max_image_bytes,
        deadline=timedelta(seconds=settings.fetch_seconds),
        allowed_networks=settings.allowed_networks,
        egress_proxy=_secret_value(settings.egress_proxy),
    )


def _downloader(settings: Settings) -> Downloader:
    policy = _policy(settings)
    broker_url = _secret_value(settings.broker_url)
    known = Hosts(settings.host_connections, RedisHosts.at(broker_url), places=settings.host_concurrency)
    slots = FetchSlots(settings.fetch_concurrency)
    return Downloader(policy, hosts=known, slots=slots, shared_robots=SharedRobots.at(broker_url))


def _loaded(sources: dict[str, Source], name: str, settings: Settings) -> Source:
    if name not in sources:
        sources[name] = protocol.load(name, source_config(settings, name))
    return sources[name]


def source_config(settings: Settings, name: str) -> SourceConfig:
    """Return the configuration of a source: from `Settings`, or from the variables named after it."""
    base_url, api_key = of_source(name)
    if f"{name}_url" in Settings.model_fields:
        base_url = getattr(settings, f"{name}_url")
    return SourceConfig(base_url=base_url, api_key=api_key)


def _secret_value(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()

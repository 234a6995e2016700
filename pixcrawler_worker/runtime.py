"""The one place where settings become connections."""

import asyncio
import contextlib
import os
import platform
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any, TypeVar

from pydantic import SecretStr

from pixcrawler_worker import settings as configuration
from pixcrawler_worker.db import session
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.inspection.guard import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Source, SourceConfig
from pixcrawler_worker.storage import Storage
from pixcrawler_worker.web import http
from pixcrawler_worker.web.downloader import Downloader, Policy
from pixcrawler_worker.web.http import AsyncClient

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a use case needs of the outside world. Opened once per process, after its fork.

    Nothing here connects before it is used, so a process that only sweeps has no decoder and no HTTP client.
    """

    settings: Settings
    sessions: Sessions
    storage: Storage
    downloader: Downloader
    http: AsyncClient
    decoder: Decoder
    loop: asyncio.AbstractEventLoop
    sources: dict[str, Source] = field(default_factory=dict)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run asynchronous work on this process's one event loop, whose connections stay for the next."""
        task = self.loop.create_task(work)
        try:
            return self.loop.run_until_complete(task)
        finally:
            # A time limit is raised in the loop itself and not in the work, which must not go on in the next run. An
            # interrupt is raised a second time by the group of tasks that it met.
            if not task.done():
                task.cancel()
                with contextlib.suppress(KeyboardInterrupt):
                    self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            if task.done() and not task.cancelled():
                # Looked at, so that nobody tells it once more when the task is forgotten.
                task.exception()

    def source(self, name: str) -> Source:
        """Return the source of that name, ready to be asked.

        Raises:
            PermanentError: when it is not installed.
        """
        if name not in self.sources:
            self.sources[name] = protocol.load(name, source_config(self.settings, name))
        return self.sources[name]

    def close(self) -> None:
        """End every connection and the decoder's process."""
        if not self.loop.is_closed():
            self.loop.run_until_complete(self.downloader.aclose())
            self.loop.run_until_complete(self.decoder.aclose())
            self.loop.close()
        session.close(self.sessions)


def connect(settings: Settings) -> Runtime:
    """Return a runtime for this process.

    Raises:
        PermanentError: when a setting is missing or cannot work; the message names it.
    """
    downloader = Downloader(_policy(settings))
    return Runtime(
        settings=settings,
        sessions=session.sessions(session.connect(settings.require_database())),
        storage=Storage(settings.storage()),
        downloader=downloader,
        http=http.client(downloader),
        decoder=Decoder(Limits(max_pixels=settings.max_image_pixels)),
        loop=asyncio.new_event_loop(),
    )


def owner() -> str:
    """Return a name for one claim of this process: unique, so that a claim whose COMMIT lost its answer is found."""
    return f"{platform.node()}:{os.getpid()}:{uuid.uuid4()}"


def local_pid(owner: str) -> int | None:
    """Return the process that made a claim; None when it did so on another machine."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    return int(rest) if host == platform.node() and rest.isdecimal() else None


_opened: dict[int, Runtime] = {}


def current() -> Runtime:
    """Return this process's runtime, opened from the environment when it is first asked for.

    A forked child never sees its parent's: connections do not survive a fork.
    """
    pid = os.getpid()
    if pid not in _opened:
        _opened[pid] = connect(configuration.load())
    return _opened[pid]


def close_current() -> None:
    """Close this process's runtime, if it was ever opened."""
    if runtime := _opened.pop(os.getpid(), None):
        runtime.close()


def _policy(settings: Settings) -> Policy:
    return Policy(
        user_agent=f"PixCrawler/{version('pixcrawler-worker')} (+{settings.user_agent_contact})",
        max_bytes=settings.max_image_bytes,
        deadline=timedelta(seconds=settings.fetch_seconds),
        allowed_networks=settings.allowed_networks,
        egress_proxy=_revealed(settings.egress_proxy),
    )


def source_config(settings: Settings, name: str) -> SourceConfig:
    """Return what is configured for the source of that name: by a setting of ours, or beside them."""
    if f"{name}_url" in Settings.model_fields:
        return SourceConfig(base_url=getattr(settings, f"{name}_url"))
    base_url, api_key = configuration.of_source(name)
    return SourceConfig(base_url=base_url, api_key=api_key)


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()

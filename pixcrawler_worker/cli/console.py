"""What commands share: finding the services, and showing a job while it runs."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pixcrawler_worker import embedded, logs, runtime
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.db import session, views
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.views import CrawlView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.settings import Settings

out = Console(highlight=False)
#: A whole number as PostgreSQL's `integer` takes it: an id, or how many of something.
NUMBER = click.IntRange(min=1, max=2**31 - 1)

_POLL_SECONDS = 0.5
#: Without a terminal a line is written this often at most, and only when something changed.
_LINE_SECONDS = 2.0


def settings() -> Settings:
    """Return the settings, with the embedded services that `pixcrawler up` runs where no others are configured.

    What was found goes into the environment, for everything that this process starts or imports later.
    """
    found = configuration.load()
    if found.database_url is None and (services := embedded.find(found.data_dir)):
        adopt(services)
        found = configuration.load()
    if found.broker_url is not None:
        # It may stand in `.env`, which the client does not read.
        os.environ["PIXCRAWLER_BROKER_URL"] = found.broker_url.get_secret_value()
    return found


def adopt(services: embedded.Services) -> None:
    """Use these services in this process and in those it starts."""
    os.environ["PIXCRAWLER_DATABASE_URL"] = services.database_url
    os.environ["PIXCRAWLER_BROKER_URL"] = services.broker_url


@contextlib.contextmanager
def connected() -> Iterator[Runtime]:
    """Keep a runtime on the configured services, or on the embedded ones, while the context is open."""
    found = settings()
    found.require_database()
    logs.configure(found.log_format, level=30)
    opened = runtime.connect(found)
    try:
        yield opened
    finally:
        opened.close()


def require_job(sessions: Sessions, job_id: int) -> CrawlView:
    """Return a crawl job.

    Raises:
        PermanentError: when there is none of that id.
    """
    job = session.transact(sessions, lambda s: views.crawl_job(s, job_id))
    if job is None:
        raise PermanentError(f"there is no crawl job {job_id}; `pixcrawler jobs list` shows those there are")
    return job


def watch(sessions: Sessions, job_id: int, *, check: Callable[[], None] = lambda: None) -> CrawlView:
    """Show a job until it ends, and return it. Interrupting leaves it running and says so.

    Args:
        sessions: the database.
        job_id: the crawl job.
        check: called at every look; raises when waiting has become pointless.

    Raises:
        PermanentError: when there is no such job, or it is deleted meanwhile.
        SystemExit: 130 when interrupted.
    """
    show = _bar if out.is_terminal else _lines
    try:
        job = show(lambda: _look(sessions, job_id, check), job_id)
    except KeyboardInterrupt:
        click.echo(
            f"\njob {job_id} goes on. Watch it again: pixcrawler jobs watch {job_id}. "
            f"Stop it: pixcrawler jobs cancel {job_id}",
            err=True,
        )
        sys.exit(130)
    out.print(outcome(job), soft_wrap=True)
    return job


def outcome(job: CrawlView) -> str:
    """Return how a job stands, in one line."""
    took = ""
    if job.started_at and job.completed_at:
        took = f" in {(job.completed_at - job.started_at).total_seconds():.1f} s"
    return f"job {job.id} {job.status}{took}: {job.valid_images} of {job.max_images} images, {chunks(job)}"


def chunks(job: CrawlView) -> str:
    """Return how far the chunks of a job are, in a few words."""
    text = f"{job.completed_chunks} of {job.total_chunks} chunks"
    return f"{text}, {job.failed_chunks} failed" if job.failed_chunks else text


def shown(text: str) -> str:
    """Return somebody else's text so that it does nothing to a terminal: without markup and control characters."""
    return escape("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def _look(sessions: Sessions, job_id: int, check: Callable[[], None]) -> CrawlView:
    check()
    return require_job(sessions, job_id)


def _bar(look: Callable[[], CrawlView], job_id: int) -> CrawlView:
    columns = (
        SpinnerColumn(),
        TextColumn("job {task.fields[job]} {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images  {task.fields[rate]}  {task.fields[chunks]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        job = look()
        bar = progress.add_task("", total=job.max_images, job=job_id, rate="", chunks="")
        begun, had = time.monotonic(), job.valid_images
        while True:
            rate = (job.valid_images - had) / max(time.monotonic() - begun, 1)
            progress.update(
                bar,
                description=job.status,
                completed=job.valid_images,
                rate=f"{rate:.0f}/s" if rate else "",
                chunks=chunks(job),
            )
            if job.ended:
                return job
            time.sleep(_POLL_SECONDS)
            job = look()


def _lines(look: Callable[[], CrawlView], job_id: int) -> CrawlView:
    said, last = "", -_LINE_SECONDS
    while True:
        job = look()
        if job.ended:
            return job
        line = f"job {job_id} {job.status}: {job.valid_images} of {job.max_images} images, {chunks(job)}"
        if line != said and time.monotonic() - last >= _LINE_SECONDS:
            out.print(line, soft_wrap=True)
            said, last = line, time.monotonic()
        time.sleep(_POLL_SECONDS)

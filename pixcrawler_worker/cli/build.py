"""`pixcrawler build`."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import click

from pixcrawler_worker import client, settings
from pixcrawler_worker.cli import (
    arguments,
    connection,
    console,
    crawl_arguments,
    delivery,
    dry_runs,
    export_arguments,
    interrupts,
    job_retry,
    job_status,
    job_watch,
    local_service,
    new_jobs,
    recipes,
)
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments, RawCrawlOptions
from pixcrawler_worker.cli.delivery import Delivery
from pixcrawler_worker.cli.export_arguments import ExportArguments
from pixcrawler_worker.cli.recipes import Recipe
from pixcrawler_worker.db.job_views import CrawlView, JobView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.export import download
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime

#: Unfinished jobs that are listed.
_MAX_LEFT = 5
#: How long a worker may take to retry a job, and the pause between two looks.
_RETRY_SECONDS, _POLL_SECONDS = 60.0, 0.2


@click.command()
@click.argument("keywords", nargs=-1, metavar="KEYWORD...")
@crawl_arguments.add_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for the dataset, new or empty.  [default: the first keyword and the id of the job]",
)
@click.option(
    "--job", type=arguments.NUMBER, metavar="ID", help="Resume a job, with the options that it was built with."
)
@export_arguments.add_options
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Build the dataset of a recipe, which has all other options but --out and --extend.",
)
@click.option(
    "--save-recipe",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a recipe of the dataset to a new file, and build it so that the recipe gives the same archives again.",
)
@click.option(
    "--dry-run", is_flag=True, help="Search, show what would be downloaded, and exit: no image, no job, no file."
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON, with the URL of each candidate.")
def build(
    exported: ExportArguments,
    *,
    keywords: tuple[str, ...],
    out: Path | None,
    job: int | None,
    recipe: Path | None,
    save_recipe: Path | None,
    dry_run: bool,
    as_json: bool,
    **raw: Unpack[RawCrawlOptions],
) -> None:
    """Turn keywords into a dataset in a directory: crawl, validate, export, download, and verify the checksums.

    Uses the configured services and their workers. Where none are configured, it runs its own PostgreSQL, Redis and
    worker until it is done. Their data is kept, so that --job can resume an interrupted job, or try again what failed.
    A zip is unpacked.

    \b
    pixcrawler build "red panda" "snow leopard" --max-images 200
    pixcrawler build cat --urls cats.txt --license cc0 --out cats
    pixcrawler build cat --layout coco --resize 512 --split train=0.8,test=0.2
    pixcrawler build cat --extend 3 --out more-cats
    pixcrawler build cat --license cc0 --dry-run
    pixcrawler build cat --save-recipe cats.toml
    pixcrawler build --recipe cats.toml --out same-cats
    pixcrawler build --job 3
    """  # noqa: D301 - click's mark for lines it must not wrap
    if as_json and not dry_run:
        raise click.UsageError("--json is for --dry-run")
    if save_recipe is not None:
        _check_save(save_recipe, job=job, dry_run=dry_run, recipe=recipe, skip_known=raw["skip_known"])
    crawl, request = _parsed(keywords, job, recipe, raw, exported, dry_run=dry_run, out=out)
    if out is not None:
        download.require_empty(out)
    if crawl and dry_run:
        if not dry_runs.run(crawl, as_json=as_json):
            sys.exit(1)
        return
    said = _Said() if job is None else _Said(_resumable(job))
    with said.when_interrupted(), _services(job) as (runtime, check), said.when_interrupted():
        if crawl:
            job_id, request = _create(runtime, crawl, request, exported if recipe is None else None, save_recipe)
            said.text = _resumable(job_id)
            new_jobs.start(client.start_crawl, job_id, title=f"job {job_id}")
        else:
            assert job is not None
            job_id = job
            request = _resume(runtime, job_id, exported, check, out=out)
        ended = job_watch.watch(runtime.sessions, CrawlView, job_id, check=check, interrupted=said.text)
        folder = Path(request.out) if request.out else Path(f"{slug(_first_keyword(ended))}-{job_id}")
        if job is not None and out is None:
            folder = _unused(folder)
        export = delivery.deliver(
            runtime, ended, folder, request.delivery, check=check, resume=f"Resume: pixcrawler build --job {job_id}"
        )
        if export is not None:
            console.out.print(f"images: {export.exported_images} in {folder}", soft_wrap=True)
            console.out.print(f"report: {folder / 'report.html'}", soft_wrap=True)
        said.text = ""
    if export is None or ended.status != JobStatus.COMPLETED:
        sys.exit(1)


def _parsed(
    keywords: tuple[str, ...],
    job: int | None,
    recipe: Path | None,
    raw: RawCrawlOptions,
    exported: ExportArguments,
    *,
    dry_run: bool,
    out: Path | None,
) -> tuple[CrawlArguments | None, "_Request"]:
    """Return the crawl that the arguments describe, None when they name a job to resume, and what follows it.

    Raises:
        click.UsageError: when they are invalid, or do not fit to each other.
    """
    if recipe is None:
        crawl = _crawl_of(keywords, job, raw, dry_run=dry_run)
        return crawl, replace(_Request.parse({}, exported, out=out), origin=crawl.origin if crawl else None)
    if keywords or job is not None or crawl_arguments.given(raw) - {"extend"} or exported != ExportArguments():
        raise click.UsageError("a recipe has its keywords and options already: combine --recipe with --out or --extend")
    _check_dry_run(raw, dry_run=dry_run)
    return _of_recipe(recipe, extends=raw["extend"], out=out)


def _create(
    runtime: Runtime,
    crawl: CrawlArguments,
    request: "_Request",
    exported: ExportArguments | None,
    save_recipe: Path | None,
) -> tuple[int, "_Request"]:
    """Create the job of a build; return its id, and what follows the crawl.

    Args:
        runtime: connects to the database.
        crawl: of the build.
        request: of the build.
        exported: options of the export; None where a recipe has all of them.
        save_recipe: file for the recipe; None for none.
    """
    if crawl.options.extends is not None and exported is not None:
        request = _extended(runtime, crawl.options.extends, request, exported)
    if save_recipe is None:
        return new_jobs.create_crawl(runtime, crawl, build=request.to_json()), request
    crawl, request = _saved(runtime, save_recipe, crawl, request)
    try:
        return new_jobs.create_crawl(runtime, crawl, build=request.to_json()), request
    except BaseException:
        # The same command is to work when the reason is gone.
        save_recipe.unlink(missing_ok=True)
        raise


def _crawl_of(
    keywords: tuple[str, ...], job: int | None, raw: RawCrawlOptions, *, dry_run: bool
) -> CrawlArguments | None:
    """Return the crawl that the arguments describe; None when they name a job to resume.

    Raises:
        click.UsageError: when they are invalid, or do not fit to each other.
    """
    if job is None and not keywords:
        raise click.UsageError("give at least one KEYWORD, or --job ID to resume a job")
    _check_dry_run(raw, dry_run=dry_run)
    if job is None:
        return crawl_arguments.parse(keywords, raw)
    if keywords or dry_run or crawl_arguments.given(raw):
        raise click.UsageError(
            "a job has its keywords and options already: combine --job with --out, --format, --layout"
        )
    return None


def _check_dry_run(raw: RawCrawlOptions, *, dry_run: bool) -> None:
    if dry_run and (raw["skip_known"] or raw["extend"] is not None):
        raise click.UsageError(
            "--dry-run reads no database, so it does not know other jobs: leave out --skip-known and --extend"
        )


@dataclass(slots=True)
class _Said:
    """What is said when the command is interrupted: once, and before anything is stopped."""

    text: str = "\ninterrupted before a job was created: there is nothing to resume"

    @contextlib.contextmanager
    def when_interrupted(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            if self.text:
                click.echo(self.text, err=True)
            raise SystemExit(interrupts.EXIT_CODE) from None


def _resumable(job_id: int) -> str:
    return (
        f"\njob {job_id} is stored. Resume it: pixcrawler build --job {job_id}. "
        f"Cancel it: pixcrawler jobs cancel {job_id}"
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """What a build does after the crawl, as it is recorded with the job, and where its URL list is."""

    out: str | None
    delivery: Delivery
    origin: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, recorded: Mapping[str, Any], given: ExportArguments, *, out: Path | None) -> "_Request":
        """Return the request of a call, with what was recorded before where the call says nothing.

        Raises:
            click.UsageError: when the options are invalid, or do not fit to each other.
        """
        known, format_, before, rules, origin = (
            recorded.get(name) for name in ("options", "format", "out", "rules", "list")
        )
        if given.failures is None and "options" not in recorded:
            # Its folder is that of the person who builds, and outlives the data of the job.
            given = replace(given, failures=True)
        if isinstance(format_, str) and given.format_ is None and given.layout is None:
            given = replace(given, format_=format_)
        file = io.StringIO(json.dumps(known if isinstance(known, dict) else {}))
        delivery = Delivery(*export_arguments.parse(given, file), rules if isinstance(rules, dict) else {})
        folder = str(out) if out else before if isinstance(before, str) else None
        return cls(folder, delivery, origin if isinstance(origin, dict) else None)

    def to_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "format": self.delivery.format.value,
            "options": self.delivery.options,
            **({"rules": self.delivery.rules} if self.delivery.rules else {}),
            **({"list": dict(self.origin)} if self.origin else {}),
        }


@contextlib.contextmanager
def _services(job_id: int | None) -> Iterator[tuple[Runtime, Callable[[], None] | None]]:
    """Yield a runtime on the configured services; or on local ones, with a function that raises when they fail."""
    configured = settings.load()
    if configured.database_url is not None:
        configured.require_broker()
        with connection.connect() as runtime:
            yield runtime, None
        return
    if configured.broker_url is not None:
        raise PermanentError("a broker is configured, but no database: set PIXCRAWLER_DATABASE_URL too")
    with local_service.running(configured.data_dir, resumed=job_id) as service:
        if not service.is_shared:
            _list_left(service.left)
        yield service.runtime, service.check


def _list_left(left: Sequence[JobView]) -> None:
    """Say which jobs of earlier commands are unfinished, and what can be done about them."""
    crawls = {job.id for job in left if isinstance(job, CrawlView)}
    # Resuming a crawl job takes its validations and exports along.
    shown = [job for job in left if isinstance(job, CrawlView) or job.crawl_id not in crawls]
    for job in shown[:_MAX_LEFT]:
        done, total, noun = job.count
        click.echo(
            f"unfinished, and left alone: {job.title} ({console.printable(job.name)}), {done} of {total} {noun}. "
            f"Resume it: pixcrawler build --job {job.crawl_id}. Cancel it: pixcrawler jobs cancel {job.argument}",
            err=True,
        )
    if len(shown) > _MAX_LEFT:
        click.echo(f"and {len(shown) - _MAX_LEFT} more, which pixcrawler jobs list shows", err=True)


def _extended(runtime: Runtime, base_id: int, request: _Request, exported: ExportArguments) -> _Request:
    """Return the request of a build that adds to a dataset: what it does not say is as the build before had it.

    Images that the build before left out stay left out.

    Raises:
        click.UsageError: when the options do not fit to those of the build before.
    """
    recorded = transact(runtime.sessions, lambda session: new_jobs.recorded_build(session, base_id))
    before = recorded.get("options")
    if not isinstance(before, dict):
        return request
    select = before.get("select")
    left_out = select.get("exclude_images") if isinstance(select, dict) else None
    if exported.exclude is not None and isinstance(left_out, list):
        exported = replace(exported, exclude=list(dict.fromkeys([*left_out, *exported.exclude])))
    # A validation by other rules would find other near duplicates, and so other splits.
    known = {"format": recorded.get("format"), "options": before, "rules": recorded.get("rules")}
    return _Request.parse({**request.to_json(), **known}, exported, out=None)


def _check_save(path: Path, *, job: int | None, dry_run: bool, recipe: Path | None, skip_known: bool) -> None:
    """Raise click.UsageError when a recipe is not to be saved with the other options, or to that file."""
    if job is not None:
        raise click.UsageError(f"--save-recipe is for a new job: pixcrawler jobs show {job} --recipe prints its recipe")
    if dry_run or recipe is not None:
        raise click.UsageError("--save-recipe is for a build without --dry-run and --recipe")
    if skip_known:
        raise click.UsageError(
            "what other jobs have changes with each job, so no recipe gives these images again: leave out --skip-known "
            "or --save-recipe"
        )
    if path.exists():
        raise click.UsageError(f"{path} exists already: name a new file with --save-recipe")


def _of_recipe(path: Path, *, extends: int | None, out: Path | None) -> tuple[CrawlArguments, _Request]:
    """Return the crawl and the request of a recipe.

    Raises:
        click.UsageError: when it is invalid, or its list is not the one that it was saved with.
    """
    try:
        recipe = recipes.read(path)
        crawl = recipes.crawl_of(recipe, path, extends=extends)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return crawl, _requested(recipe, _Request(str(out) if out else None, Delivery(ExportFormat.ZIP, {}), crawl.origin))


def _saved(runtime: Runtime, path: Path, crawl: CrawlArguments, request: _Request) -> tuple[CrawlArguments, _Request]:
    """Save the recipe of a build, and return the build as the recipe has it.

    Raises:
        PermanentError: when the file cannot be written, or there is one already.
    """
    recipe = recipes.save(path, runtime, crawl, request.to_json())
    options = recipe.crawl.model_copy(update={"extends": crawl.options.extends})
    return replace(crawl, options=options), _requested(recipe, request)


def _requested(recipe: Recipe, request: _Request) -> _Request:
    """Return a request with the export and the validation of a recipe."""
    options = recipe.export.model_dump(mode="json", exclude_defaults=True)
    return replace(request, delivery=Delivery(recipe.export_format, options, recipe.rules))


def _resume(
    runtime: Runtime,
    job_id: int,
    exported: ExportArguments,
    check: Callable[[], None] | None,
    *,
    out: Path | None,
) -> _Request:
    """Have a job run again that is not complete, and return what its build was requested with."""
    job = job_status.require(runtime.sessions, CrawlView, job_id)
    recorded = transact(runtime.sessions, lambda session: new_jobs.recorded_build(session, job_id))
    request = _Request.parse(recorded, exported, out=out)
    if request.to_json() != recorded:
        transact(runtime.sessions, lambda session: new_jobs.record_build(session, job_id, request.to_json()))
    if job.status == JobStatus.PENDING:
        new_jobs.start(client.start_crawl, job_id, title=job.title)
    elif job_retry.has_retry(runtime.sessions, job):
        job_retry.require_retry(runtime.sessions, job)
        new_jobs.start(client.retry_crawl, job_id, title=job.title)
        _wait_for_retry(runtime, job, check)
    return request


def _wait_for_retry(runtime: Runtime, before: CrawlView, check: Callable[[], None] | None) -> None:
    """Wait until a worker has set a job running again. It may have ended again by then."""
    until = time.monotonic() + _RETRY_SECONDS
    with console.out.status(f"retrying {before.title}"):
        while time.monotonic() < until:
            if check:
                check()
            now = job_status.require(runtime.sessions, CrawlView, before.id)
            if (now.status, now.completed_at) != (before.status, before.completed_at):
                return
            time.sleep(_POLL_SECONDS)
    raise TransientError(f"{before.title} was not retried within {_RETRY_SECONDS:.0f} s: does a worker run?")


def _unused(folder: Path) -> Path:
    """Return the folder; if it has files of an earlier build, another one next to it."""
    found, number = folder, 1
    while found.exists() and (not found.is_dir() or any(found.iterdir())):
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    if found != folder:
        console.out.print(f"{folder} is not empty: the dataset is written to {found}", soft_wrap=True)
    return found


def _first_keyword(job: CrawlView) -> str:
    """Return the name for the directory of the dataset, from any accepted form of the keywords."""
    listed = job.keywords.get("keywords", []) if isinstance(job.keywords, dict) else job.keywords
    first = listed[0] if isinstance(listed, list) and listed else "dataset"
    return str(first.get("label", first.get("query", "dataset")) if isinstance(first, dict) else first)

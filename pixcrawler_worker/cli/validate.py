"""`pixcrawler validate`."""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click
from kombu.exceptions import OperationalError

from pixcrawler_worker import client
from pixcrawler_worker.cli import console, watching
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.verdicts import Mode
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.validate import report
from pixcrawler_worker.validate.classifiers import CLASSIFIERS
from pixcrawler_worker.validate.rules import Level, ValidationRules, parse


@click.command()
@click.argument("job_id", type=console.NUMBER, metavar="JOB", required=False)
@click.option("--rules", type=click.File(encoding="utf-8"), help="File with rules as JSON, or - for stdin.")
@click.option("--level", type=click.Choice([level.value for level in Level]), help="Which checks are on.")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="Which findings make an image invalid.")
@click.option("--name", help="Name of the validation.  [default: its level]")
@click.option("--watch", is_flag=True, help="Show the validation until it ends.")
@click.option(
    "--report",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Wait for the end, and write a page about it.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of rules and do nothing else.")
def validate(
    *,
    job_id: int | None,
    rules: TextIO | None,
    level: str | None,
    mode: str | None,
    name: str | None,
    watch: bool,
    page: Path | None,
    schema: bool,
) -> None:
    """Judge the images of a crawl job, and say why. Prints the id of the validation.

    \b
    pixcrawler validate 3 --watch
    pixcrawler validate 3 --level strict --report report.html
    pixcrawler validate 3 --rules rules.json
    """  # noqa: D301 - click's mark for lines it must not wrap
    if schema:
        click.echo(json.dumps(ValidationRules.model_json_schema(), indent=2))
        return
    if job_id is None:
        raise click.UsageError("give the number of a crawl JOB, or --schema")
    asked = _rules(rules, level=level, mode=mode)
    with console.connected() as runtime:
        runtime.settings.require_broker()
        validation_id = transact(
            runtime.sessions,
            lambda session: job_rows.create_validation_job(
                session, crawl_job_id=job_id, name=name or asked.get("level", Level.STANDARD), rules=asked
            ),
        )
        if validation_id is None:
            raise PermanentError(f"there is no crawl job {job_id}; `pixcrawler jobs list` shows those there are")
        click.echo(validation_id)
        start(validation_id)
        if not watch and page is None:
            return
        ended = watching.watch(runtime.sessions, ValidationView, validation_id)
        if page is not None and ended.status == "completed":
            click.echo(f"page    {report.write(runtime, validation_id, page)}")
        if ended.status != "completed":
            sys.exit(1)


def _rules(file: TextIO | None, *, level: str | None, mode: str | None) -> dict[str, Any]:
    """Return the rules that a call asks for, as a row keeps them.

    Raises:
        click.UsageError: when they cannot be meant.
    """
    given = {} if file is None else console.read_object(file)
    given |= {key: value for key, value in (("level", level), ("mode", mode)) if value is not None}
    try:
        for name in parse(given).classifiers:
            CLASSIFIERS.require(name)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return given


def start(validation_id: int) -> None:
    """Send the message that starts a validation; say so when the broker does not answer."""
    try:
        client.start_validation(validation_id)
    except OperationalError as error:
        click.echo(
            f"pixcrawler: the broker does not answer ({error}); validation {validation_id} is kept and starts when a "
            "worker sweeps",
            err=True,
        )

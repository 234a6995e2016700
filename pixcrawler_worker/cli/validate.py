"""`pixcrawler validate`."""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from pixcrawler_worker import client
from pixcrawler_worker.cli import arguments, connection, job_watch, new_jobs
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.domain.checks import Mode
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.validate import report
from pixcrawler_worker.validate.classifiers import CLASSIFIERS
from pixcrawler_worker.validate.rules import Level, ValidationRules, parse


@click.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB", required=False)
@click.option("--rules", type=click.File(encoding="utf-8-sig"), help="File with rules as JSON, or - for stdin.")
@click.option("--level", type=click.Choice([level.value for level in Level]), help="The checks that are enabled.")
@click.option(
    "--mode", type=click.Choice([mode.value for mode in Mode]), help="The findings that make an image invalid."
)
@click.option("--name", help="Name of the validation.  [default: its level]")
@click.option("--watch", is_flag=True, help="Show the progress of the validation until it ends.")
@click.option(
    "--report",
    "report_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Wait for the end, and write an HTML report.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the rules, and exit.")
def validate(
    *,
    job_id: int | None,
    rules: TextIO | None,
    level: str | None,
    mode: str | None,
    name: str | None,
    watch: bool,
    report_path: Path | None,
    schema: bool,
) -> None:
    """Validate the images of a crawl job. Prints the id of the validation.

    \b
    pixcrawler validate 3 --watch
    pixcrawler validate 3 --level strict --report report.html
    pixcrawler validate 3 --rules rules.json
    """  # noqa: D301 - click's mark for lines it must not wrap
    if schema:
        click.echo(json.dumps(ValidationRules.model_json_schema(), indent=2))
        return
    if job_id is None:
        raise click.UsageError("give the id of a crawl JOB, or --schema")
    given = _read_rules(rules, level=level, mode=mode)
    with connection.connect() as runtime:
        runtime.settings.require_broker()
        validation_id = new_jobs.create_validation(
            runtime, job_id, name=name or given.get("level", Level.STANDARD), rules=given
        )
        click.echo(validation_id)
        new_jobs.start(client.start_validation, validation_id, title=f"validation {validation_id}")
        if not watch and report_path is None:
            return
        ended = job_watch.watch(runtime.sessions, ValidationView, validation_id)
        if not job_watch.succeeded(ended):
            sys.exit(1)
        if report_path is not None:
            click.echo(f"report: {report.write_validation_report(runtime, validation_id, report_path)}")


def _read_rules(file: TextIO | None, *, level: str | None, mode: str | None) -> dict[str, Any]:
    """Return the rules of a call, as the row has them.

    Raises:
        click.UsageError: when they are invalid.
    """
    rules = {} if file is None else arguments.read_json_object(file)
    rules |= {key: value for key, value in (("level", level), ("mode", mode)) if value is not None}
    try:
        for name in parse(rules).classifiers:
            CLASSIFIERS.require(name)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return rules

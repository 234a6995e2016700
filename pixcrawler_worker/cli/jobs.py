"""`pixcrawler jobs`: the group of commands."""

import click

from pixcrawler_worker.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "list": LazyCommand("jobs_list", "list_", "List the newest jobs."),
    "show": LazyCommand("jobs_show", "show", "Show the counts, chunks and log of a job."),
    "watch": LazyCommand("jobs_run", "watch", "Show the progress of a job until it ends."),
    "cancel": LazyCommand("jobs_run", "cancel", "Cancel a job that has not ended."),
    "retry": LazyCommand("jobs_run", "retry", "Run the failed and cancelled chunks of a job again."),
    "failures": LazyCommand("failures", "failures", "List the URLs of a crawl job that did not become images."),
}


@click.group(cls=LazyGroup, of=_COMMANDS)
def jobs() -> None:
    """List, show, watch, cancel and retry jobs of all kinds.

    A crawl job is named by its id, as in 3; a validation or an export by its kind and its id, as in validation:3 and
    export:3.
    """

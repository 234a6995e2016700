"""`pixcrawler quarantine`."""

import json
from dataclasses import asdict

import click

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.cli import arguments, console, environment


@click.command("quarantine")
@click.option("--limit", type=arguments.NUMBER, default=20, show_default=True, help="Number of messages to list.")
@click.option("--clear", is_flag=True, help="Forget them all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quarantine_command(*, limit: int, clear: bool, as_json: bool) -> None:
    """List the newest messages that no worker could read.

    Workers set such messages aside. The list has when and from which queue they were taken, what is wrong with them,
    and their beginning without passwords, tokens and encoded data.
    """
    broker_url = environment.load_settings().require_broker()
    if clear:
        click.echo(f"{quarantine.clear(broker_url)} messages forgotten")
        return
    count, newest = quarantine.read(broker_url, limit=limit)
    if as_json:
        click.echo(json.dumps({"count": count, "messages": [asdict(entry) for entry in newest]}, indent=2))
        return
    if not newest:
        click.echo(quarantine.summary(0, ()))
        return
    for entry in newest:
        task = f"  {entry.task}" if entry.task else ""
        click.echo(console.printable(f"{entry.time}  {entry.queue}  {entry.size} bytes  {entry.detail}{task}"))
        click.echo(console.printable(f"    {entry.excerpt}"))
    if count > len(newest):
        click.echo(f"{count - len(newest)} older ones: pixcrawler quarantine --limit {count}")

"""`pixcrawler up`."""

import contextlib
import shlex
import time

import click

from pixcrawler_worker import settings
from pixcrawler_worker.cli import arguments, celery_processes, connection, environment, interrupts, local_service
from pixcrawler_worker.db import server
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services

#: Pause before a worker that has ended is started again.
_PAUSE_SECONDS = 1.0


@click.command()
@click.option("--concurrency", type=arguments.NUMBER, help="Worker processes.  [default: one per core]")
@click.option("--tcp", is_flag=True, help="Let PostgreSQL and Redis listen on 127.0.0.1, with passwords.")
def up(*, concurrency: int | None, tcp: bool) -> None:
    """Run PostgreSQL, Redis, a worker and Flower until Ctrl-C. Other commands in this directory use them.

    The lines that begin with "export" are for the shell of a process that uses them, such as an API. Their URLs are of
    Unix sockets; with --tcp they are of TCP ports, which are others at each start, and so are the passwords.
    Flower shows workers, queues and tasks in a browser; install it with pip install 'pixcrawler-worker[flower]'.
    """
    found = settings.load()
    with contextlib.suppress(KeyboardInterrupt), interrupts.handled() as interrupted, contextlib.ExitStack() as stack:
        services = stack.enter_context(
            launcher.running(found.data_dir, allow_fake=False, tcp=tcp, hurry=interrupted.hurry)
        )
        stack.enter_context(interrupted.last_resort(lambda: launcher.kill(services)))
        environment.use_services(services)
        server.upgrade(services.database_url)
        for line in export_lines(services, tcp=tcp):
            click.echo(line)
        flower = stack.enter_context(celery_processes.flower(services.data_dir / "flower.log"))
        click.echo(f"Flower      {flower}")
        click.echo("Stop with Ctrl-C. In another terminal: pixcrawler crawl cat --urls list.txt --watch")
        runtime = stack.enter_context(connection.connect())
        while True:
            with local_service.worker(runtime, concurrency) as process:
                process.wait()
            click.echo(f"the worker exited with code {process.returncode}; starting another one", err=True)
            time.sleep(_PAUSE_SECONDS)


def export_lines(services: Services, *, tcp: bool) -> list[str]:
    """Return lines for a shell whose processes use the services, with URLs that Celery and libpq take.

    Args:
        services: the running services.
        tcp: whether the URLs are those of TCP ports.
    """
    values = {
        "PIXCRAWLER_DATABASE_URL": services.tcp_database_url if tcp else services.database_url,
        "PIXCRAWLER_BROKER_URL": services.tcp_broker_url if tcp else services.broker_url,
        "PIXCRAWLER_DATA_DIR": str(services.data_dir),
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items() if value is not None]

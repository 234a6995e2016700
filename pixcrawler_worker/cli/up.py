"""`pixcrawler up`."""

import contextlib
import signal
import time

import click

from pixcrawler_worker import settings
from pixcrawler_worker.cli import arguments, celery_processes, connection
from pixcrawler_worker.db import server
from pixcrawler_worker.embedded import launcher

#: Pause before a worker that has ended is started again.
_PAUSE_SECONDS = 1.0


@click.command()
@click.option("--concurrency", type=arguments.NUMBER, help="Worker processes.  [default: one per core]")
def up(*, concurrency: int | None) -> None:
    """Run PostgreSQL, Redis, a worker and Flower until Ctrl-C. Other commands in this directory use them.

    Flower shows workers, queues and tasks in a browser; install it with pip install 'pixcrawler-worker[flower]'.
    """
    found = settings.load()
    with contextlib.ExitStack() as stack:
        services = stack.enter_context(launcher.running(found.data_dir, allow_fake=False))
        connection.use_services(services)
        server.upgrade(services.database_url)
        click.echo(f"PostgreSQL  {services.database_url}")
        click.echo(f"Redis       {services.redis_url}")
        click.echo(f"data        {services.data_dir}")
        flower = stack.enter_context(celery_processes.flower(services.data_dir / "flower.log"))
        click.echo(f"Flower      {flower}")
        click.echo("Stop with Ctrl-C. In another terminal: pixcrawler crawl cat --urls list.txt --watch")
        signal.signal(signal.SIGTERM, _interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with celery_processes.worker(concurrency) as process:
                    process.wait()
                click.echo(f"the worker exited with code {process.returncode}; starting another one", err=True)
                time.sleep(_PAUSE_SECONDS)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

"""The services as a careful operator runs them: restricted users of PostgreSQL and Redis, and PgBouncer between.

`make test-restricted` runs tests of `acceptance` with them: their processes have the role of `deploy/roles.sql` and the
user of `deploy/redis-acl.conf` for workers; the tests themselves may do everything.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import redis
import supabase
from fakes.pgbouncer import pgbouncer

from pixcrawler_worker.embedded import launcher

#: Whether the tests run with them.
WANTED = os.environ.get("RESTRICTED_SERVICES") == "1"
_DEPLOY = Path(__file__).parents[1] / "deploy"
_WORKER = "pixcrawler_worker:CHANGE-THIS-WORKER-PASSWORD"


@contextmanager
def restricted_database(database_url: str) -> Iterator[str]:
    """Yield the URL of a database for the role of workers, through PgBouncer in transaction mode."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute((_DEPLOY / "roles.sql").read_bytes())
    role = supabase.as_role(database_url, "pixcrawler_worker")
    # Outside of the directories of pytest, which another user cannot enter.
    with TemporaryDirectory(prefix="pgbouncer") as directory, pgbouncer(role, Path(directory), size=10) as url:
        yield url


def require_use(database_url: str) -> None:
    """Fail unless a connection of the pooler, as the role of workers, is open."""
    with psycopg.connect(database_url) as connection:
        count = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pixcrawler_worker' AND datname = current_database()"
        ).fetchone()
    assert count != (0,), "no process came through the pooler as the role of workers"


@contextmanager
def restricted_redis() -> Iterator[tuple[str, str]]:
    """Run a Redis with the shipped users; yield its URL for one who may do everything, and for workers."""
    program = launcher.locate("redis-server")
    assert program is not None
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    with TemporaryDirectory(prefix="redis") as directory:
        configuration = Path(directory, "redis.conf")
        configuration.write_text(
            f"include {_DEPLOY / 'redis-acl.conf'}\nuser test on >test ~* &* +@all\nport {port}\nbind 127.0.0.1\n"
            f'save ""\ndir {directory}\n'
        )
        everything = f"redis://test:test@127.0.0.1:{port}/0"
        with subprocess.Popen([program, configuration], stdout=subprocess.DEVNULL) as process:
            try:
                _wait_for(everything)
                yield everything, f"redis://{_WORKER}@127.0.0.1:{port}/0"
                _require_no_denials(everything)
            finally:
                process.terminate()
                process.wait(10)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(url) as server:
        while True:
            try:
                server.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return


def _require_no_denials(url: str) -> None:
    with redis.Redis.from_url(url, decode_responses=True) as server:
        # CLIENT SETINFO is of later versions of Redis: clients do without it.
        denied = [entry for entry in server.acl_log() if entry["object"] != "client"]
    assert not denied, denied

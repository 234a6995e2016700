"""Dead rows of a job with 10,000 chunks, with the storage parameters of the migrations."""

import sys
import time
from collections.abc import Iterator

import ledger
import psycopg
import pytest
from factories import start_job
from sqlalchemy import Engine

from pixcrawler_worker.db import sizes
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services

CHUNKS = 10_000

pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]


@pytest.fixture
def eager_autovacuum(services: Services) -> Iterator[None]:
    """Look for tables to vacuum each second, not each minute: the job takes minutes here, and hours elsewhere."""
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        connection.execute("SELECT pg_reload_conf()")
        yield
        connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
        connection.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("eager_autovacuum")
def test_dead_rows_of_a_large_job_are_removed_while_it_runs(
    sessions: Sessions, engine: Engine, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    ref = start_job(sessions, chunks=CHUNKS)
    most = {"public.crawl_jobs": 0, "pixcrawler.chunks": 0}
    started = time.monotonic()
    for number, chunk_id in enumerate(ledger.ids_of(sessions, ref)):
        assert ledger.finish(sessions, ledger.claim(sessions, chunk_id))
        if number % 100 == 0:
            for table in sizes.tables(engine):
                if table.name in most:
                    most[table.name] = max(most[table.name], table.dead_rows)
    seconds = time.monotonic() - started
    found = {table.name: table for table in sizes.tables(engine) if table.name in most}
    hot = {
        name: ledger.scalar(
            sessions,
            f"SELECT n_tup_hot_upd::float8 / n_tup_upd FROM pg_stat_user_tables WHERE relid = '{name}'::regclass",
        )
        for name in most
    }
    lines = [
        f"{name}: at most {most[name]:,} dead rows, {found[name].bytes / 1e6:.1f} MB, {hot[name]:.0%} HOT"
        for name in most
    ]
    sys.stdout.writelines(f"{line}\n" for line in ["", f"{CHUNKS:,} chunks in {seconds:.0f} s", *lines])
    # Without the parameters, a fifth of the rows of `chunks` would be dead before each vacuum.
    assert most["public.crawl_jobs"] < 2_000
    assert most["pixcrawler.chunks"] < CHUNKS // 5
    assert found["public.crawl_jobs"].bytes < 2_000_000
    ledger.check(sessions, ref)

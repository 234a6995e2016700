"""`pixcrawler db drill --pitr`: recovery to a point in time, with the embedded binaries."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from calls import call

from pixcrawler_worker.db import point_in_time
from pixcrawler_worker.embedded import launcher

pytestmark = [pytest.mark.scale, pytest.mark.timeout(300)]


def test_a_server_is_recovered_to_a_time_between_two_jobs() -> None:
    done = call({}, "db", "drill", "--pitr")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.split()[:3] == ["pixcrawler.chunks", "20", "20"] for line in lines)
    assert any(line.split()[:3] == ["public.crawl_jobs", "1", "1"] for line in lines)
    assert "the restored database is the same" in lines
    assert lines[-1].startswith("recovered to 2")
    assert lines[-1].endswith("between two jobs with 20 chunks each: 0 rows of the second one are there")


def test_a_row_that_is_not_recovered_is_found() -> None:
    program = launcher.locate("postgres")
    assert program is not None

    @contextlib.contextmanager
    def servers(folder: Path) -> Iterator[str]:
        with launcher.running(folder, allow_fake=True) as services:
            if folder.name == "copy":
                tamper(services.database_url)
            yield services.database_url

    found = point_in_time.drill(servers, basebackup=program.with_name("pg_basebackup"))
    assert [difference.name for difference in found.differences] == ["pixcrawler.chunks", "public.crawl_jobs"]
    assert found.later_jobs == 1


def tamper(url: str) -> None:
    """Change a row, and add a job, once the server has recovered."""
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            time.sleep(0.1)
        connection.execute("UPDATE pixcrawler.chunks SET error = 'x' WHERE seq = 3")
        connection.execute(
            "INSERT INTO crawl_jobs (project_id, name, keywords) SELECT id, 'after the time', '[\"cat\"]' FROM projects"
        )

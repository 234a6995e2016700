"""The optional step that makes ids of images bigint, in a database of this module's own."""

from collections.abc import Iterator
from pathlib import Path

import all_kinds
import ledger
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from fakes.hosts import HostileServer, serving
from sqlalchemy import Engine

from pixcrawler_worker.db import sizes
from pixcrawler_worker.db.session import Sessions

PROJECT = Path(__file__).parents[2]
TO_BIGINT = (PROJECT / "deploy" / "ids-to-bigint.sql").read_text()


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as running:
        yield running


def test_after_the_step_to_bigint_jobs_of_all_kinds_run_beyond_the_integers(
    database_url: str, engine: Engine, sessions: Sessions, host: HostileServer, tmp_path: Path
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(TO_BIGINT.encode())
    ledger.execute(sessions, "SELECT setval('images_id_seq', 3000000000)")
    assert max(one.used for one in sizes.ids(engine)) < sizes.NOTABLE
    with all_kinds.runtime_on(database_url, tmp_path) as opened:
        result = all_kinds.run(opened, sessions, host)
    assert result.crawl[0] == result.validation[0] == result.export[0] == "completed"
    assert result.export[3] == 3
    assert ledger.scalar(sessions, "SELECT min(image_id) FROM pixcrawler.verdicts") > 2**31
    config = Config(PROJECT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    command.check(config)

"""`pixcrawler db`."""

import json
from collections.abc import Mapping

from calls import call


def test_an_empty_database_is_brought_up_to_date(env: Mapping[str, str], empty_database_url: str) -> None:
    empty = {**env, "PIXCRAWLER_DATABASE_URL": empty_database_url}
    for _ in range(2):
        assert call(empty, "db", "upgrade").stdout == "the database is up to date\n"
    assert call(empty, "jobs", "list").stdout.startswith("no jobs yet")


def test_a_report_has_tables_and_ids(env: Mapping[str, str]) -> None:
    lines = call(env, "db", "report").stdout.splitlines()
    assert lines[0].split() == ["TABLE", "ROWS", "DEAD", "MB", "VACUUMED"]
    assert {"public.images", "pixcrawler.chunks"} <= {line.split()[0] for line in lines if line}
    assert any(line.split()[0] == "images.id" and line.endswith("%") for line in lines if line)
    found = json.loads(call(env, "db", "report", "--json").stdout)
    assert found.keys() == {"database", "tables", "ids", "indexes", "transactions", "statements"}
    assert {"column", "last", "limit", "used"} == found["ids"][0].keys()

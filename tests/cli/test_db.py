"""`pixcrawler db`."""

from collections.abc import Mapping

from calls import call


def test_an_empty_database_is_brought_up_to_date(env: Mapping[str, str], empty_database_url: str) -> None:
    empty = {**env, "PIXCRAWLER_DATABASE_URL": empty_database_url}
    for _ in range(2):
        assert call(empty, "db", "upgrade").stdout == "the database is up to date\n"
    assert call(empty, "jobs", "list").stdout.startswith("no jobs yet")

"""Jobs of all kinds in a database, and as a role, with unusual defaults: they end as elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import all_kinds
import psycopg
import pytest
from all_kinds import Result
from fakes.hosts import HostileServer, serving
from psycopg import conninfo
from sqlalchemy import Engine, text

from pixcrawler_worker.db import session
from pixcrawler_worker.db.session import Sessions

#: Each of them would change how values are written or read, what is found, or when a transaction ends.
ODD = {
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "client_encoding": "LATIN1",
    "search_path": "pixcrawler, pg_catalog",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "2min",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1s",
    "lc_messages": "C",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "transaction_timeout": "1s",
    "backslash_quote": "off",
    "escape_string_warning": "off",
    "client_min_messages": "debug1",
    "plpgsql.extra_errors": "all",
    "plpgsql.variable_conflict": "use_column",
    "plan_cache_mode": "force_generic_plan",
    "jit_above_cost": "0",
    "idle_session_timeout": "1s",
}
#: Those of them that change nothing for the code.
IRRELEVANT = {
    "backslash_quote",
    "escape_string_warning",
    "client_min_messages",
    "plpgsql.extra_errors",
    "plpgsql.variable_conflict",
    "plan_cache_mode",
    "jit_above_cost",
    "idle_session_timeout",
    "lc_messages",
}


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def usual(
    database_url: str, sessions: Sessions, host: HostileServer, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    with all_kinds.runtime_on(database_url, tmp_path_factory.mktemp("usual")) as opened:
        return all_kinds.run(opened, sessions, host)


@pytest.fixture
def odd(database_url: str) -> Iterator[None]:
    name = conninfo.conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for setting, value in ODD.items():
            given = value if setting == "search_path" else f"'{value}'"
            connection.execute(f"ALTER DATABASE {name} SET {setting} = {given}".encode())
        yield
        connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())


@pytest.mark.usefixtures("odd")
def test_jobs_end_as_they_do_with_the_usual_defaults(
    usual: Result, database_url: str, host: HostileServer, tmp_path: Path
) -> None:
    # What the test looks with must not be closed when it was slow: it does not try again.
    engine = session.connect(f"{database_url}&options=-c%20idle_session_timeout%3D0")
    try:
        with all_kinds.runtime_on(database_url, tmp_path) as opened:
            assert all_kinds.run(opened, session.sessions(engine), host) == usual
    finally:
        engine.dispose()
    assert usual.crawl[0] == usual.validation[0] == usual.export[0] == "completed"


@pytest.mark.usefixtures("odd")
def test_every_transaction_has_what_the_code_relies_on(database_url: str) -> None:
    engine = session.connect(database_url, pool_size=1)
    try:
        for _ in range(2):
            assert shown(engine) == {
                "TimeZone": "UTC",
                "DateStyle": "ISO, MDY",
                "IntervalStyle": "postgres",
                "extra_float_digits": "1",
                "bytea_output": "hex",
                "standard_conforming_strings": "on",
                "array_nulls": "on",
                "client_encoding": "UTF8",
                "search_path": "public, pixcrawler",
                "row_security": "on",
                "transaction_isolation": "read committed",
                "statement_timeout": "15s",
                "lock_timeout": "3s",
                "idle_in_transaction_session_timeout": "30s",
                "quote_all_identifiers": "off",
                "transform_null_equals": "off",
                "transaction_timeout": "0",
            }
    finally:
        engine.dispose()


def shown(engine: Engine) -> dict[str, str]:
    names = [name for name in ODD if not name.startswith("default_") and name not in IRRELEVANT] + [
        "transaction_isolation"
    ]
    with engine.connect() as connection:
        return {name: str(connection.scalar(text(f"SHOW {name}"))) for name in names}

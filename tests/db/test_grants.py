"""Roles with no more rights than they need: `deploy/roles.sql`, and what a worker says when it lacks some."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import all_kinds
import ledger
import psycopg
import pytest
import supabase
from factories import TABLES, make_job
from fakes.hosts import HostileServer, serving
from psycopg import conninfo

from pixcrawler_worker import health, settings
from pixcrawler_worker.db import grants, migrate, server, session
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.monitored_state import MonitoredState

ROLES_SQL = (Path(__file__).parents[2] / "deploy" / "roles.sql").read_text()
ROLES = ("pixcrawler_owner", "pixcrawler_worker", "pixcrawler_api", "pixcrawler_monitor")
_numbers = itertools.count(1)


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def attempt(url: str, role: str, statement: str) -> str | None:
    """Run a statement as a role, without its effects; return the SQLSTATE of its error."""
    with psycopg.connect(supabase.as_role(url, role)) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return error.sqlstate
        finally:
            connection.rollback()
    return None


def missing(url: str, role: str) -> list[str]:
    engine = session.connect(supabase.as_role(url, role), pool_size=1)
    try:
        return grants.missing(engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def admin(services: Services) -> Iterator[str]:
    """The URL, as a superuser, of a database that was made as the file says."""
    name = f"roles_{next(_numbers)}"
    url = services.database_url.replace("/pixcrawler?", f"/{name}?")
    execute(services.database_url, f"CREATE DATABASE {name}")
    execute(url, ROLES_SQL)
    migrate.upgrade(supabase.as_role(url, "pixcrawler_owner"))
    for _ in range(2):
        execute(url, ROLES_SQL)
    yield url
    execute(services.database_url, f"DROP DATABASE {name} WITH (FORCE)")
    for role in reversed(ROLES):
        execute(services.database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(scope="module")
def everything(admin: str) -> Iterator[Sessions]:
    engine = session.connect(admin)
    yield session.sessions(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as running:
        yield running


def test_the_role_of_the_worker_runs_jobs_of_all_kinds(
    admin: str, everything: Sessions, host: HostileServer, tmp_path: Path
) -> None:
    url = supabase.as_role(admin, "pixcrawler_worker")
    health.require_rights(settings.load(database_url=url))
    with all_kinds.runtime_on(url, tmp_path) as opened:
        result = all_kinds.run(opened, everything, host)
    assert result.crawl[:2] == ("completed", 100)
    assert result.validation[:3] == ("completed", 100, 3)
    assert result.export[:4] == ("completed", 100, 3, 3)


def test_the_role_of_monitoring_reads_all_that_metrics_show(admin: str, everything: Sessions) -> None:
    make_job(everything)
    loaded = settings.load(database_url=supabase.as_role(admin, "pixcrawler_monitor"), broker_url="redis://127.0.0.1:1")
    readings = {one.name: one.values for one in MonitoredState(loaded, TABLES, ask_workers=False).readings()}
    assert readings["state_read_failed"] == {("jobs",): 0, ("ids",): 0, ("redis",): 1}
    assert readings["state_left_out"] == {(): 0}
    # A role that may not read the sequence would see 0.
    assert readings["ids_used_ratio"]["crawl_jobs.id",] > 0


def test_the_role_of_the_owner_lacks_nothing_either(admin: str) -> None:
    assert missing(admin, "pixcrawler_owner") == []


_INSERT_JOB = "INSERT INTO crawl_jobs (project_id, name, keywords) SELECT max(id), 'x', '[]' FROM projects"
_INSERT = "INSERT INTO crawl_jobs (project_id, name, keywords) VALUES (1, 'x', '[]')"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("pixcrawler_worker", "UPDATE profiles SET role = 'admin'"),
        ("pixcrawler_worker", "UPDATE projects SET user_id = gen_random_uuid()"),
        ("pixcrawler_worker", "DELETE FROM profiles"),
        ("pixcrawler_worker", "DELETE FROM crawl_jobs"),
        ("pixcrawler_worker", "DELETE FROM images"),
        ("pixcrawler_worker", "DELETE FROM activity_logs"),
        ("pixcrawler_worker", "UPDATE activity_logs SET action = 'x'"),
        ("pixcrawler_worker", "TRUNCATE images"),
        ("pixcrawler_worker", _INSERT),
        ("pixcrawler_worker", "UPDATE pixcrawler.alembic_version SET version_num = '0001'"),
        ("pixcrawler_worker", "DROP TABLE pixcrawler.chunks"),
        ("pixcrawler_worker", "ALTER TABLE pixcrawler.chunks DISABLE TRIGGER ALL"),
        ("pixcrawler_worker", "CREATE TABLE public.mine (id int)"),
        ("pixcrawler_worker", "CREATE TABLE pixcrawler.mine (id int)"),
        ("pixcrawler_worker", "CREATE SCHEMA mine"),
        ("pixcrawler_worker", "CREATE ROLE mine"),
        ("pixcrawler_worker", "SELECT pg_read_file('/etc/passwd')"),
        ("pixcrawler_worker", "COPY images TO PROGRAM 'true'"),
        ("pixcrawler_api", "SELECT FROM pixcrawler.chunks"),
        ("pixcrawler_api", "UPDATE crawl_jobs SET valid_images = 1"),
        ("pixcrawler_api", "UPDATE export_jobs SET download_url = 'x'"),
        ("pixcrawler_api", "INSERT INTO images (crawl_job_id, original_url, filename) VALUES (1, 'x', 'x')"),
        ("pixcrawler_api", "INSERT INTO crawl_jobs (project_id, name, keywords, progress) VALUES (1, 'x', '[]', 1)"),
        ("pixcrawler_api", "UPDATE activity_logs SET action = 'x'"),
        ("pixcrawler_api", "DELETE FROM activity_logs"),
        ("pixcrawler_api", "CREATE TABLE public.mine (id int)"),
        ("pixcrawler_monitor", "SELECT email FROM profiles"),
        ("pixcrawler_monitor", "SELECT FROM images"),
        ("pixcrawler_monitor", "SELECT FROM activity_logs"),
        ("pixcrawler_monitor", "SELECT download_url FROM export_jobs"),
        ("pixcrawler_monitor", "UPDATE crawl_jobs SET status = 'failed'"),
        ("pixcrawler_monitor", "DELETE FROM pixcrawler.chunks"),
        ("pixcrawler_monitor", "SELECT nextval('images_id_seq')"),
        ("pixcrawler_owner", "CREATE ROLE mine"),
        ("pixcrawler_owner", "ALTER ROLE pixcrawler_owner SUPERUSER"),
    ],
)
def test_a_forbidden_statement_fails_with_42501(admin: str, role: str, statement: str) -> None:
    assert attempt(admin, role, statement) == "42501"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("pixcrawler_api", "SELECT FROM images"),
        ("pixcrawler_api", "UPDATE crawl_jobs SET status = 'cancelled'"),
        ("pixcrawler_api", "UPDATE validation_jobs SET status = 'failed'"),
        ("pixcrawler_api", "DELETE FROM images"),
        ("pixcrawler_api", "DELETE FROM projects"),
        ("pixcrawler_api", "INSERT INTO profiles (id, email) VALUES (gen_random_uuid(), 'api@example.org')"),
        ("pixcrawler_api", "INSERT INTO projects (name, user_id) SELECT 'x', id FROM profiles LIMIT 1"),
        ("pixcrawler_api", f"{_INSERT_JOB} RETURNING id, pixcrawler.request_crawl(id, '{{}}')"),
        ("pixcrawler_monitor", "SELECT state, count(*) FROM pixcrawler.chunks GROUP BY 1"),
        ("pixcrawler_monitor", "SELECT status, progress FROM export_jobs"),
        ("pixcrawler_monitor", "SELECT last_value FROM images_id_seq"),
    ],
)
def test_an_allowed_statement_succeeds(admin: str, everything: Sessions, role: str, statement: str) -> None:
    with everything.begin():
        ledger.execute(
            everything,
            "INSERT INTO profiles (id, email) VALUES (gen_random_uuid(), gen_random_uuid() || '@example.org');"
            " INSERT INTO projects (name, user_id) SELECT 'x', id FROM profiles LIMIT 1",
        )
    assert attempt(admin, role, statement) is None


def test_a_role_without_rights_gets_the_statements_that_grant_them(admin: str) -> None:
    """One after the other: with all of them, nothing is missing."""
    execute(admin, "DROP ROLE IF EXISTS bare; CREATE ROLE bare LOGIN")
    execute(admin, f"REVOKE TEMPORARY ON DATABASE {conninfo.conninfo_to_dict(admin)['dbname']} FROM PUBLIC")
    try:
        lacking = missing(admin, "bare")
        assert "GRANT SELECT, UPDATE (updated_at) ON public.profiles TO bare" in lacking
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON pixcrawler.chunks TO bare" in lacking
        assert "GRANT USAGE ON SEQUENCE pixcrawler.fence TO bare" in lacking
        assert len(lacking) > 20
        url = supabase.as_role(admin, "bare")
        with pytest.raises(PermanentError, match=r"lacks rights.*GRANT USAGE ON SCHEMA pixcrawler TO bare; ") as caught:
            health.require_rights(settings.load(database_url=url))
        assert "\n" not in str(caught.value)
        with pytest.raises(PermanentError, match="the migration of the database cannot be read: permission denied"):
            health.require_migrated(settings.load(database_url=url))
        while lacking:
            execute(admin, lacking.pop(0))
            assert missing(admin, "bare") == lacking
        health.require_migrated(settings.load(database_url=url))
    finally:
        execute(admin, "DROP OWNED BY bare; DROP ROLE bare")


def test_a_role_that_row_level_security_hides_all_rows_from_gets_the_policies(admin: str) -> None:
    worker = "pixcrawler_worker"
    execute(admin, "ALTER TABLE crawl_jobs ENABLE ROW LEVEL SECURITY")
    try:
        policy = f"CREATE POLICY {worker} ON public.crawl_jobs TO {worker} USING (true) WITH CHECK (true)"
        assert missing(admin, worker) == [policy]
        execute(admin, ROLES_SQL)
        assert missing(admin, worker) == []
    finally:
        execute(
            admin,
            "DROP POLICY IF EXISTS pixcrawler_roles ON crawl_jobs; ALTER TABLE crawl_jobs DISABLE ROW LEVEL SECURITY",
        )


def test_what_the_key_of_every_browser_may_read_is_named(admin: str) -> None:
    engine = session.connect(admin, pool_size=1)
    try:
        assert grants.exposed(engine) == []
        execute(admin, "CREATE ROLE anon; GRANT SELECT ON images TO anon")
        try:
            assert grants.exposed(engine) == ["anon has rights on public.images"]
            execute(admin, "ALTER TABLE images ENABLE ROW LEVEL SECURITY")
            assert grants.exposed(engine) == []
        finally:
            execute(admin, "ALTER TABLE images DISABLE ROW LEVEL SECURITY; DROP OWNED BY anon; DROP ROLE anon")
    finally:
        engine.dispose()


def test_a_database_without_tables_lacks_no_rights_on_them(empty_database_url: str) -> None:
    engine = session.connect(empty_database_url, pool_size=1)
    try:
        assert grants.missing(engine) == []
        assert server.revision(engine) is None
    finally:
        engine.dispose()

"""On a database like those of Supabase: who may do what, what sign-ups do, and that elsewhere nothing changes."""

import os
import re
import subprocess
import sysconfig
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import catalog
import psycopg
import pytest
import supabase
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from calls import call

from pixcrawler_worker.db import migrate
from pixcrawler_worker.embedded.services import Services

PROJECT = Path(__file__).parents[2]
ALEMBIC = Path(sysconfig.get_path("scripts")) / "alembic"
TABLES = ("profiles", "projects", "crawl_jobs", "images", "activity_logs", "validation_jobs", "export_jobs")
#: A role of an operator's own, which row level security applies to.
WORKER = "pix_worker"
DENIED = "denied"


@dataclass(frozen=True)
class World:
    """A migrated database with two users. User A has a row in every table, B has a profile and a project."""

    url: str
    a: uuid.UUID
    b: uuid.UUID
    names: dict[str, object]

    def run(self, who: str, statement: str) -> object:
        """Return how many rows a statement returned or changed, or `DENIED`."""
        role, user = {
            "anon": ("anon", None),
            "A": ("authenticated", self.a),
            "B": ("authenticated", self.b),
            "service_role": ("service_role", None),
        }.get(who, (who, None))
        try:
            if who in {WORKER, "postgres"}:
                with psycopg.connect(supabase.as_role(self.url, who)) as connection:
                    rows = connection.execute(statement.format(**self.names).encode()).rowcount
                    connection.rollback()
                    return rows
            with supabase.request(self.url, role, user) as connection:
                return connection.execute(statement.format(**self.names).encode()).rowcount
        except psycopg.errors.InsufficientPrivilege:
            return DENIED


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def alembic(url: str, *x: str) -> Config:
    config = Config(PROJECT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes["supabase"] = dict(word.split("=") for word in x).get("supabase")
    return config


@pytest.fixture(scope="module")
def with_roles(services: Services) -> Iterator[str]:
    with psycopg.connect(services.database_url, autocommit=True) as connection, supabase.roles(services.database_url):
        connection.execute(f"CREATE ROLE {WORKER} LOGIN".encode())
        yield services.database_url
        connection.execute(f"DROP ROLE {WORKER}".encode())


@pytest.fixture
def empty(with_roles: str, new_database: Callable[..., str]) -> str:
    """The URL, as a superuser, of an empty database like those of Supabase."""
    del with_roles
    url = new_database()
    supabase.prepare(url)
    return url


@pytest.fixture(scope="module")
def world(with_roles: str) -> Iterator[World]:
    url = with_roles.replace("/pixcrawler?", "/supabase_world?")
    execute(with_roles, "CREATE DATABASE supabase_world")
    supabase.prepare(url)
    owner = supabase.as_role(url, "postgres")
    # As an existing installation: its worker has rights before row level security comes.
    migrate.upgrade(owner, "0011")
    execute(
        owner,
        f"""
        GRANT USAGE ON SCHEMA public, pixcrawler TO {WORKER};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, pixcrawler TO {WORKER};
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public, pixcrawler TO {WORKER}
        """,
    )
    migrate.upgrade(owner)
    a, b = supabase.sign_up(url, "a@example.org", {"full_name": "Ada"}), supabase.sign_up(url, "b@example.org")
    spare = supabase.sign_up(url, "spare@example.org")
    execute(url, f"DELETE FROM profiles WHERE id = '{spare}'")
    names: dict[str, object] = {"a": a, "b": b, "spare": spare}
    with psycopg.connect(owner, autocommit=True) as connection:

        def insert(called: str, table: str, /, **values: object) -> None:
            columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
            statement = f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING id"
            row = connection.execute(statement.encode(), list(values.values())).fetchone()
            assert row is not None
            names[called] = row[0]

        insert("project", "projects", name="cats", user_id=a)
        insert("project_b", "projects", name="dogs", user_id=b)
        for name, status in (("crawl", "pending"), ("running", "running"), ("done", "completed")):
            insert(name, "crawl_jobs", project_id=names["project"], name=name, keywords='["cat"]', status=status)
        job = names["done"]
        insert("image", "images", crawl_job_id=job, original_url="https://example.org/1", filename="1.jpg")
        insert("log", "activity_logs", user_id=a, action="crawl_job.started")
        insert("system_log", "activity_logs", action="sweep")
        for name, status in (("validation", "pending"), ("validating", "running")):
            insert(name, "validation_jobs", crawl_job_id=job, name=name, status=status)
        for name, status in (("export", "pending"), ("exporting", "running")):
            insert(name, "export_jobs", crawl_job_id=job, user_id=a, name=name, status=status, download_url="signed")
    yield World(url, a, b, names)
    execute(with_roles, "DROP DATABASE supabase_world WITH (FORCE)")


EVERYONE = ("anon", "A", "B", "service_role", WORKER, "postgres")
#: For each table and verb: the statement, then the result for each of EVERYONE: rows, or DENIED.
#: A owns what the statements name. `service_role` and the workers can do all of it.
MATRIX: list[tuple[str, tuple[object, ...]]] = [
    ("SELECT FROM profiles", (DENIED, 1, 1, 2, 2, 2)),
    ("SELECT FROM profiles WHERE id = '{a}'", (DENIED, 1, 0, 1, 1, 1)),
    ("INSERT INTO profiles (id, email) VALUES ('{spare}', 'x@example.org')", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("UPDATE profiles SET full_name = 'Eve' WHERE id = '{a}'", (DENIED, 1, 0, 1, 1, 1)),
    ("UPDATE profiles SET full_name = 'Eve'", (DENIED, 1, 1, 2, 2, 2)),
    ("DELETE FROM profiles WHERE id = '{a}'", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM projects", (DENIED, 1, 1, 2, 2, 2)),
    ("SELECT FROM projects WHERE id = {project}", (DENIED, 1, 0, 1, 1, 1)),
    ("INSERT INTO projects (name, user_id) VALUES ('more', '{a}')", (DENIED, 1, DENIED, 1, 1, 1)),
    ("UPDATE projects SET name = 'x', status = 'archived' WHERE id = {project}", (DENIED, 1, 0, 1, 1, 1)),
    ("DELETE FROM projects WHERE id = {project}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM crawl_jobs", (DENIED, 3, 0, 3, 3, 3)),
    ("SELECT FROM crawl_jobs WHERE id = {crawl}", (DENIED, 1, 0, 1, 1, 1)),
    (
        "INSERT INTO crawl_jobs (project_id, name, keywords, max_images) VALUES ({project}, 'x', '[\"cat\"]', 5)",
        (DENIED, 1, DENIED, 1, 1, 1),
    ),
    ("UPDATE crawl_jobs SET name = 'x', max_images = 5 WHERE id = {crawl}", (DENIED, 1, 0, 1, 1, 1)),
    ("UPDATE crawl_jobs SET status = 'cancelled' WHERE id = {running}", (DENIED, 1, 0, 1, 1, 1)),
    ("DELETE FROM crawl_jobs WHERE id = {crawl}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM images", (DENIED, 1, 0, 1, 1, 1)),
    ("SELECT FROM images WHERE crawl_job_id = {done}", (DENIED, 1, 0, 1, 1, 1)),
    (
        "INSERT INTO images (crawl_job_id, original_url, filename) VALUES ({done}, 'https://example.org/2', '2.jpg')",
        (DENIED, DENIED, DENIED, 1, 1, 1),
    ),
    ("UPDATE images SET filename = 'x' WHERE id = {image}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("DELETE FROM images WHERE id = {image}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM activity_logs", (DENIED, 1, 0, 2, 2, 2)),
    (
        "INSERT INTO activity_logs (user_id, action) VALUES ('{a}', 'crawl_job.completed')",
        (DENIED, DENIED, DENIED, 1, 1, 1),
    ),
    ("UPDATE activity_logs SET action = 'x' WHERE id = {log}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("DELETE FROM activity_logs WHERE id = {log}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM validation_jobs", (DENIED, 2, 0, 2, 2, 2)),
    ("INSERT INTO validation_jobs (crawl_job_id, name) VALUES ({done}, 'x')", (DENIED, 1, DENIED, 1, 1, 1)),
    ("UPDATE validation_jobs SET validation_rules = '{{}}' WHERE id = {validation}", (DENIED, 1, 0, 1, 1, 1)),
    ("UPDATE validation_jobs SET status = 'failed' WHERE id = {validating}", (DENIED, 1, 0, 1, 1, 1)),
    ("DELETE FROM validation_jobs WHERE id = {validation}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    ("SELECT FROM export_jobs", (DENIED, 2, 0, 2, 2, 2)),
    ("SELECT download_url FROM export_jobs WHERE id = {export}", (DENIED, 1, 0, 1, 1, 1)),
    (
        "INSERT INTO export_jobs (crawl_job_id, user_id, name, format) VALUES ({done}, '{a}', 'x', 'tar')",
        (DENIED, 1, DENIED, 1, 1, 1),
    ),
    ("UPDATE export_jobs SET format = 'csv' WHERE id = {export}", (DENIED, 1, 0, 1, 1, 1)),
    ("UPDATE export_jobs SET status = 'failed' WHERE id = {exporting}", (DENIED, 1, 0, 1, 1, 1)),
    ("DELETE FROM export_jobs WHERE id = {export}", (DENIED, DENIED, DENIED, 1, 1, 1)),
    # The private schema is the workers' own.
    ("SELECT FROM pixcrawler.chunks", (DENIED, DENIED, DENIED, DENIED, 0, 0)),
    ("SELECT FROM pixcrawler.crawl_candidates", (DENIED, DENIED, DENIED, DENIED, 0, 0)),
    ("SELECT FROM pixcrawler.supabase_undo WHERE false", (DENIED, DENIED, DENIED, DENIED, DENIED, 0)),
    ("SELECT pixcrawler.request_crawl({crawl})", (DENIED, DENIED, DENIED, DENIED, DENIED, 1)),
]


@pytest.mark.parametrize(("statement", "expected"), MATRIX, ids=[statement[:60] for statement, _ in MATRIX])
def test_every_role_may_do_what_the_table_says(world: World, statement: str, expected: tuple[object, ...]) -> None:
    found = {who: world.run(who, statement) for who in EVERYONE}
    assert found == dict(zip(EVERYONE, expected, strict=True))


def test_the_table_has_every_verb_of_every_table() -> None:
    named = {
        tuple(re.findall(r"^(SELECT|INSERT|UPDATE|DELETE)\b.*?\b(" + "|".join(TABLES) + r")\b", s)[0])
        for s, _ in MATRIX
        if "pixcrawler." not in s
    }
    assert named == {(verb, table) for verb in ("SELECT", "INSERT", "UPDATE", "DELETE") for table in TABLES}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("who", ["anon", "A"])
def test_no_user_truncates_a_table_or_hangs_something_on_it(world: World, who: str, table: str) -> None:
    """Row level security does not cover these: only the rights do."""
    assert world.run(who, f"TRUNCATE {table} CASCADE") == DENIED
    assert world.run(who, f"LOCK TABLE {table} IN EXCLUSIVE MODE") == DENIED
    key = "" if table == "profiles" else f"SELECT setval('{table}_id_seq', 1)"
    assert not key or world.run(who, key) == DENIED
    role = "anon" if who == "anon" else "authenticated"
    query = f"SELECT has_table_privilege('{role}', 'public.{table}', 'REFERENCES, TRIGGER, TRUNCATE, DELETE')"
    assert rows(world.url, query) == [(False,)]


#: What user A may not do with rows of A's own.
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE profiles SET role = 'admin'",
        "UPDATE profiles SET email = 'b@example.org'",
        "UPDATE profiles SET id = '{b}'",
        "UPDATE profiles SET created_at = now()",
        "INSERT INTO projects (name, user_id) VALUES ('x', '{b}')",
        "INSERT INTO projects (id, name, user_id) VALUES (2147483647, 'x', '{a}')",
        "UPDATE projects SET user_id = '{b}'",
        "UPDATE projects SET status = 'anything'",
        "INSERT INTO crawl_jobs (project_id, name, keywords) VALUES ({project_b}, 'x', '[]')",
        *(
            f"INSERT INTO crawl_jobs (project_id, name, keywords, {column}) VALUES ({{project}}, 'x', '[]', {value})"
            for column, value in {
                "status": "'completed'",
                "progress": "1",
                "total_images": "1",
                "downloaded_images": "1",
                "valid_images": "1",
                "total_chunks": "1",
                "active_chunks": "1",
                "completed_chunks": "1",
                "failed_chunks": "1",
                "task_ids": "'[]'",
                "started_at": "now()",
                "completed_at": "now()",
                "created_at": "now()",
                "updated_at": "now()",
                "id": "5",
            }.items()
        ),
        *(
            f"UPDATE crawl_jobs SET {column} = {column} WHERE id = {{crawl}}"
            for column in ("progress", "valid_images", "total_images", "active_chunks", "task_ids", "project_id", "id")
        ),
        "UPDATE crawl_jobs SET status = 'running' WHERE id = {crawl}",
        "UPDATE crawl_jobs SET status = 'completed' WHERE id = {running}",
        "UPDATE crawl_jobs SET status = 'pending' WHERE id = {running}",
        "UPDATE crawl_jobs SET max_images = 1 WHERE id = {running}",
        "UPDATE crawl_jobs SET status = 'cancelled', max_images = 1 WHERE id = {running}",
        "UPDATE crawl_jobs SET status = 'pending' WHERE id = {done}",
        "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = {done}",
        "UPDATE crawl_jobs SET name = 'x' WHERE id = {done}",
        "INSERT INTO validation_jobs (crawl_job_id, name, invalid_images) VALUES ({done}, 'x', 1)",
        "INSERT INTO validation_jobs (crawl_job_id, name, status) VALUES ({done}, 'x', 'completed')",
        "UPDATE validation_jobs SET status = 'completed' WHERE id = {validating}",
        "UPDATE validation_jobs SET status = 'pending' WHERE id = {validating}",
        "UPDATE validation_jobs SET error_message = 'x' WHERE id = {validation}",
        "INSERT INTO export_jobs (crawl_job_id, user_id, name) VALUES ({done}, '{b}', 'x')",
        "INSERT INTO export_jobs (crawl_job_id, user_id, name, download_url) VALUES ({done}, '{a}', 'x', 'y')",
        "UPDATE export_jobs SET download_url = 'https://example.org' WHERE id = {export}",
        "UPDATE export_jobs SET expires_at = 'infinity' WHERE id = {export}",
        "UPDATE export_jobs SET status = 'pending' WHERE id = {exporting}",
        "UPDATE export_jobs SET crawl_job_id = 1 WHERE id = {export}",
        "SELECT pg_catalog.setval('projects_id_seq', 2147483647)",
        "SELECT pixcrawler.save_profile('{{}}')",
        "SELECT FROM auth.users",
        "CREATE TABLE pixcrawler.mine (id int)",
        "ALTER TABLE projects DISABLE ROW LEVEL SECURITY",
        "DROP POLICY pixcrawler_read ON projects",
    ],
)
def test_a_user_may_not(world: World, statement: str) -> None:
    assert world.run("A", statement) == DENIED


def test_a_user_may_insert_the_status_that_is_the_default_and_cancel_a_pending_job(world: World) -> None:
    for statement in (
        "INSERT INTO crawl_jobs (project_id, name, keywords, status) VALUES ({project}, 'x', '[]', 'pending')",
        "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = {crawl}",
        "UPDATE crawl_jobs SET status = status, keywords = '[\"dog\"]' WHERE id = {crawl} RETURNING *",
    ):
        assert world.run("A", statement) == 1


def test_a_function_of_ours_is_executed_by_no_one_but_the_owner(world: World) -> None:
    query = """
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'pixcrawler'::regnamespace
        AND (has_function_privilege('anon', oid, 'EXECUTE') OR has_function_privilege('authenticated', oid, 'EXECUTE'))
    """
    assert rows(world.url, query) == []
    definers = """
        SELECT proname FROM pg_proc WHERE pronamespace = 'pixcrawler'::regnamespace AND prosecdef
        AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)
    """
    assert rows(world.url, definers) == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM images WHERE crawl_job_id = 7",
        "SELECT * FROM images",
        "SELECT * FROM crawl_jobs",
        "SELECT * FROM export_jobs",
        "SELECT * FROM validation_jobs",
        "SELECT * FROM activity_logs",
        "SELECT * FROM projects",
    ],
)
def test_policies_use_indexes_and_ask_for_the_user_once(world: World, query: str) -> None:
    with supabase.request(world.url, "authenticated", world.a) as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN (COSTS off) {query}".encode()))
    assert "Seq Scan" not in plan, plan
    assert "InitPlan" in plan
    # Once in each init plan, never in a filter of rows.
    assert not re.search(r"(Filter|Cond):.*(uid|current_setting)", plan), plan


# Sign-ups

PROFILE = "SELECT email, full_name, avatar_url, role FROM profiles WHERE id = '{}'"


@pytest.mark.parametrize(
    ("metadata", "name", "picture"),
    [
        (None, None, None),
        ({"full_name": " Ada Lovelace "}, "Ada Lovelace", None),
        ({"name": "Ada", "picture": "https://example.org/a.png"}, "Ada", "https://example.org/a.png"),
        ({"full_name": "x" * 5000, "avatar_url": "https://example.org/" + "x" * 5000}, "x" * 100, None),
        ({"role": "admin", "email": "b@example.org", "id": str(uuid.UUID(int=7))}, None, None),
        ({"full_name": {"role": "admin"}, "avatar_url": ["https://example.org"]}, None, None),
        (
            {"avatar_url": "javascript:alert(1)", "full_name": "'); UPDATE profiles SET role = 'admin'; --"},
            "'); UPDATE profiles SET role = 'admin'; --",
            None,
        ),
        ({"full_name": None, "avatar_url": "https://a b"}, None, None),
        ([], None, None),
        ("text", None, None),
        (7, None, None),
        ({"full_name": "  "}, None, None),
    ],
)
def test_a_sign_up_makes_a_profile_of_a_user(
    world: World, metadata: object, name: str | None, picture: str | None
) -> None:
    email = f"{uuid.uuid4()}@example.org"
    user = supabase.sign_up(world.url, email, metadata)
    try:
        assert rows(world.url, PROFILE.format(user)) == [(email, name, picture, "user")]
    finally:
        execute(world.url, f"DELETE FROM auth.users WHERE id = '{user}'")
    assert rows(world.url, PROFILE.format(user)) == []


def test_the_address_follows_that_of_the_user_and_never_keeps_one_from_signing_up(world: World) -> None:
    auth = supabase.as_role(world.url, "supabase_auth_admin")
    taken, by_phone = supabase.sign_up(world.url, "a@example.org"), supabase.sign_up(world.url, None)
    try:
        for user in (taken, by_phone):
            assert rows(world.url, PROFILE.format(user)) == [(f"{user}@no-email.invalid", None, None, "user")]
        for email in ("new@example.org", "newer@example.org"):
            execute(auth, f"UPDATE auth.users SET email = '{email}' WHERE id = '{by_phone}'")
            assert rows(world.url, PROFILE.format(by_phone))[0][0] == email
        execute(auth, f"UPDATE auth.users SET email = 'a@example.org' WHERE id = '{by_phone}'")
        assert rows(world.url, PROFILE.format(by_phone))[0][0] == f"{by_phone}@no-email.invalid"
        assert rows(world.url, PROFILE.format(world.a))[0][0] == "a@example.org"
    finally:
        execute(world.url, f"DELETE FROM auth.users WHERE id IN ('{taken}', '{by_phone}')")


# The history

PUBLISHED = "SELECT tablename FROM pg_publication_tables WHERE pubname = 'supabase_realtime' ORDER BY 1"
JOBS = [("crawl_jobs",), ("export_jobs",), ("validation_jobs",)]
ACCESS = """
    SELECT 'relation', relname, relrowsecurity::text,
        coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))::text FROM pg_class
    WHERE relnamespace IN ('public'::regnamespace, 'pixcrawler'::regnamespace) AND relkind IN ('r', 'S')
    UNION ALL
    SELECT 'function', proname, '', coalesce(proacl, acldefault('f', proowner))::text FROM pg_proc
    WHERE pronamespace = 'pixcrawler'::regnamespace
    UNION ALL SELECT 'policy', polname, polrelid::regclass::text, '' FROM pg_policy
    UNION ALL SELECT 'trigger', tgname, tgrelid::regclass::text, '' FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'published', tablename, '', '' FROM pg_publication_tables
    UNION ALL SELECT 'default', defaclobjtype::text, defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
"""


def access(url: str) -> set[tuple[object, ...]]:
    """Return all that decides who may do what. The order of grants says nothing."""
    return {
        (*line[:3], frozenset(str(line[3]).strip("{}").split(",")))
        for line in rows(url, ACCESS)
        if "alembic" not in str(line[1])
    }


def test_jobs_are_published_and_an_upgrade_of_an_existing_database_is_reverted_by_a_downgrade(empty: str) -> None:
    owner = supabase.as_role(empty, "postgres")
    user = supabase.sign_up(empty, "early@example.org")
    migrate.upgrade(owner, "0011")
    execute(owner, "GRANT SELECT (name) ON projects TO anon; ALTER TABLE images ENABLE ROW LEVEL SECURITY")
    before, objects = access(empty), catalog.describe(empty)
    assert rows(empty, PUBLISHED) == []
    migrate.upgrade(owner)
    assert rows(empty, PUBLISHED) == JOBS
    assert rows(empty, PROFILE.format(user)) == [("early@example.org", None, None, "user")], (
        "users have profiles at once"
    )
    after = access(empty)
    assert after != before
    command.check(alembic(owner))
    for mode in ("auto", "require"):
        migrate.upgrade(owner, supabase=mode)
        assert access(empty) == after, mode
    command.downgrade(alembic(owner), "0011")
    assert access(empty) == before
    assert catalog.describe(empty) == objects
    assert rows(empty, "SELECT count(*) FROM pg_default_acl") == [(3,)]
    migrate.upgrade(owner)
    assert access(empty) == after
    command.downgrade(alembic(owner), "base")
    assert catalog.describe(empty) == []
    assert rows(empty, "SELECT count(*) FROM auth.users") == [(1,)]


def test_the_script_for_supabase_is_the_same_as_the_command(
    empty: str, with_roles: str, new_database: Callable[..., str]
) -> None:
    del with_roles
    scripted = new_database()
    supabase.prepare(scripted)
    text = (PROJECT / "migrations" / "supabase.sql").read_text()
    migrate.upgrade(supabase.as_role(empty, "postgres"))
    migrate.upgrade(supabase.as_role(scripted, "postgres"), supabase="off")
    assert rows(scripted, "SELECT count(*) FROM pg_policy") == [(0,)]
    assert world_is_open(scripted)
    execute(supabase.as_role(scripted, "postgres"), text)
    assert access(scripted) == access(empty)


def world_is_open(url: str) -> bool:
    return rows(url, "SELECT has_table_privilege('anon', 'public.projects', 'DELETE')") == [(True,)]


def test_a_database_that_becomes_one_of_supabase_later_is_closed_by_the_next_upgrade(
    with_roles: str, new_database: Callable[..., str]
) -> None:
    del with_roles
    url = new_database()
    execute(url, "GRANT CREATE ON SCHEMA public TO postgres")
    execute(url, f"GRANT ALL ON DATABASE {url.split('/')[3].split('?')[0]} TO postgres")
    owner = supabase.as_role(url, "postgres")
    migrate.upgrade(owner)
    with pytest.raises(
        CommandError, match=r"not a Supabase database, it lacks the table auth\.users, the function auth\.uid"
    ):
        migrate.upgrade(owner, supabase="require")
    execute(owner, "INSERT INTO profiles (id, email) VALUES (gen_random_uuid(), 'no-user@example.org')")
    supabase.prepare(url)
    execute(owner, "GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated")
    assert world_is_open(url)
    migrate.upgrade(owner)
    assert not world_is_open(url)
    assert rows(url, PUBLISHED) == JOBS
    user = supabase.sign_up(url, "a@example.org")
    assert rows(url, PROFILE.format(user)) == [("a@example.org", None, None, "user")]
    command.check(alembic(owner))


def test_rights_that_another_role_has_granted_stop_the_upgrade(empty: str) -> None:
    owner = supabase.as_role(empty, "postgres")
    migrate.upgrade(owner, "0011")
    execute(owner, "GRANT SELECT ON images TO supabase_auth_admin WITH GRANT OPTION")
    execute(supabase.as_role(empty, "supabase_auth_admin"), "GRANT SELECT ON public.images TO anon")
    with pytest.raises(CommandError, match=r"anon has rights on public\.images that postgres cannot revoke"):
        migrate.upgrade(owner)
    assert rows(empty, "SELECT count(*) FROM pg_policy") == [(0,)]


def test_what_the_owner_creates_later_is_closed(empty: str) -> None:
    owner = supabase.as_role(empty, "postgres")
    migrate.upgrade(owner)
    execute(owner, "CREATE TABLE public.later (id serial); CREATE TABLE pixcrawler.later (id serial)")
    for table in ("public.later", "pixcrawler.later"):
        with supabase.request(empty, "anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT FROM {table}".encode())
    assert rows(empty, "SELECT has_table_privilege('service_role', 'public.later', 'SELECT')") == [(True,)]


def test_a_wrong_mode_is_named(migrated: str) -> None:
    with pytest.raises(CommandError, match="supabase=always: expected one of auto, require, off"):
        migrate.upgrade(migrated, supabase="always")


def test_elsewhere_nothing_changes(migrated: str) -> None:
    assert rows(migrated, "SELECT count(*) FROM pg_policy") == [(0,)]
    assert rows(migrated, "SELECT count(*) FROM pg_class WHERE relrowsecurity OR relname = 'supabase_undo'") == [(0,)]
    assert rows(migrated, "SELECT count(*) FROM pg_proc WHERE proname IN ('handle_new_user', 'save_profile')") == [(0,)]


def test_alembic_takes_the_mode_by_its_option_x(empty: str, migrated: str) -> None:
    def upgrade(url: str, mode: str) -> tuple[int, str]:
        ran = subprocess.run(
            [ALEMBIC, "-x", f"supabase={mode}", "upgrade", "head"],
            cwd=PROJECT,
            env=os.environ | {"PIXCRAWLER_DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ran.returncode, ran.stderr + ran.stdout

    code, said = upgrade(migrated, "require")
    assert code != 0
    assert "this is not a Supabase database, it lacks the table auth.users" in said
    owner = supabase.as_role(empty, "postgres")
    assert upgrade(owner, "off") == (0, "")
    assert world_is_open(empty)
    assert upgrade(owner, "require") == (0, "")
    assert not world_is_open(empty)


def test_a_backup_is_drilled_and_restored_with_its_rows_closed(
    empty: str, with_roles: str, new_database: Callable[..., str], tmp_path: Path
) -> None:
    del with_roles
    owner, file = supabase.as_role(empty, "postgres"), str(tmp_path / "backup.dump")
    migrate.upgrade(owner)
    user = supabase.sign_up(empty, "a@example.org")
    drill = call({"PIXCRAWLER_DATABASE_URL": owner}, "db", "drill")
    assert drill.exit_code == 0, drill.output
    assert call({"PIXCRAWLER_DATABASE_URL": owner}, "db", "backup", file).exit_code == 0

    project, elsewhere = new_database(), new_database()
    supabase.prepare(project)
    execute(project, f"INSERT INTO auth.users (id, email) VALUES ('{user}', 'a@example.org')")
    for url in (supabase.as_role(project, "postgres"), elsewhere):
        restored = call({"PIXCRAWLER_DATABASE_URL": url}, "db", "restore", file)
        assert restored.exit_code == 0, restored.output
        assert rows(url, PROFILE.format(user)) == rows(empty, PROFILE.format(user))
    assert access(project) == access(empty)
    assert not world_is_open(project)
    assert rows(project, PUBLISHED) == JOBS
    assert rows(elsewhere, "SELECT count(*) FROM pg_policy") == [(0,)]
    assert rows(elsewhere, "SELECT count(*) FROM pg_class WHERE relrowsecurity") == [(0,)]

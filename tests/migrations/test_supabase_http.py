"""Over HTTP, as browsers do it: sign-ups, and requests for rows, by a server like those of Supabase.

The server is `@supabase/lite` on PostgreSQL: `make test-supabase` installs what tests/fakes/supabase_lite names.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import supabase

from pixcrawler_worker.db import migrate
from pixcrawler_worker.embedded import launcher

SERVER = Path(__file__).parents[1] / "fakes" / "supabase_lite" / "server.mjs"
PUBLISHABLE, SECRET = "sb_publishable_of_tests", "sb_secret_of_tests"
TABLES = ("profiles", "projects", "crawl_jobs", "images", "activity_logs", "validation_jobs", "export_jobs")
#: The role of the server. What it may see decides what it serves; it grants nothing, because it owns nothing.
GATEWAY = "supabase_gateway"


def logical_postgres(folder: Path) -> Path:
    """Return the embedded `postgres` with the log that Realtime reads."""
    installed = launcher.locate("postgres")
    assert installed is not None
    for path in installed.parent.iterdir():
        (folder / path.name).symlink_to(path)
    script = folder / "postgres"
    script.unlink()
    script.write_text(
        f'#!/bin/sh\ntest "$1" = --single && exec {installed} "$@"\n'
        f'exec {installed} "$@" -c wal_level=logical -c synchronous_commit=on\n'
    )
    script.chmod(0o755)
    return script


@dataclass(frozen=True)
class Project:
    """A project of Supabase with a migrated database."""

    url: str
    base: str

    def send(self, method: str, path: str, *, key: str = PUBLISHABLE, token: str | None = None, **more: Any) -> Any:
        headers = {"apikey": key, "Prefer": "return=representation", **more.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.request(method, f"{self.base}{path}", headers=headers, timeout=30, trust_env=False, **more)

    def sign_up(self, email: str, **about: object) -> tuple[str, str]:
        """Return the id and the token of a new user."""
        body = {"email": email, "password": "correct-horse-battery", "data": about}
        answer = self.send("POST", "/auth/v1/signup", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["user"]["id"], answer.json()["access_token"]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()


@contextmanager
def serving(url: str) -> Iterator[str]:
    environment = os.environ | {"JWT_SECRET": "a secret of tests with more than 32 characters"}
    with subprocess.Popen(
        ["node", SERVER, url, "serve"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the server did not start"
        yield f"http://127.0.0.1:{port}"
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    if not SERVER.with_name("node_modules").exists():
        pytest.skip("@supabase/lite is not installed: make test-supabase")
    script = logical_postgres(tmp_path_factory.mktemp("postgres"))

    def locate(program: str) -> Path | None:
        return script if program == "postgres" else launcher.locate(program)

    with launcher.running(tmp_path_factory.mktemp("services"), durable=False, locate=locate) as services:
        url = services.database_url
        subprocess.run(["node", SERVER, url, "prepare"], check=True, timeout=60, stderr=subprocess.DEVNULL)
        with supabase.roles(url):
            supabase.prepare(url)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    f"CREATE ROLE {GATEWAY} LOGIN IN ROLE anon, authenticated, service_role, supabase_auth_admin;"
                    "GRANT USAGE ON SCHEMA auth TO supabase_auth_admin;"
                    "GRANT ALL ON ALL TABLES IN SCHEMA auth TO supabase_auth_admin".encode()
                )
            migrate.upgrade(supabase.as_role(url, "postgres"), supabase="require")
            with serving(supabase.as_role(url, GATEWAY)) as base:
                yield Project(url, base)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"DROP OWNED BY {GATEWAY}; DROP ROLE {GATEWAY}".encode())
                connection.execute(b"ALTER TABLE public.profiles DROP CONSTRAINT fk_profiles_id_users")
                connection.execute(b"DROP SCHEMA pixcrawler CASCADE; DROP SCHEMA auth CASCADE")


@dataclass(frozen=True)
class Users:
    """Two users, what they send with a request, and the ids of the rows of the first one."""

    tokens: dict[str, dict[str, str]]
    names: dict[str, object]


@pytest.fixture(scope="module")
def users(project: Project) -> Users:
    a, token_a = project.sign_up("a@example.org", full_name="Ada", role="admin")
    b, token_b = project.sign_up("b@example.org")
    spare, _ = project.sign_up("spare@example.org")
    names: dict[str, object] = {"a": a, "b": b, "spare": spare}
    with psycopg.connect(project.url, autocommit=True) as connection:
        connection.execute(b"DELETE FROM profiles WHERE email = 'spare@example.org'; CREATE SCHEMA saved")
        for name, statement in {
            "project": "INSERT INTO projects (name, user_id) VALUES ('cats', '{a}')",
            "project_b": "INSERT INTO projects (name, user_id) VALUES ('dogs', '{b}')",
            "crawl": "INSERT INTO crawl_jobs (project_id, name, keywords) VALUES ({project}, 'x', '[\"cat\"]')",
            "running": "INSERT INTO crawl_jobs (project_id, name, keywords, status)"
            " VALUES ({project}, 'x', '[\"cat\"]', 'running')",
            "image": "INSERT INTO images (crawl_job_id, original_url, filename)"
            " VALUES ({crawl}, 'https://example.org/1', '1.jpg')",
            "log": "INSERT INTO activity_logs (user_id, action) VALUES ('{a}', 'crawl_job.started')",
            "validation": "INSERT INTO validation_jobs (crawl_job_id, name) VALUES ({crawl}, 'x')",
            "export": "INSERT INTO export_jobs (crawl_job_id, user_id, name, download_url)"
            " VALUES ({crawl}, '{a}', 'x', 'https://example.org/signed')",
        }.items():
            row = connection.execute(f"{statement.format(**names)} RETURNING id".encode()).fetchone()
            assert row is not None
            names[name] = row[0]
        # What a test changes is restored from these.
        for table in TABLES:
            connection.execute(f"CREATE TABLE saved.{table} AS SELECT * FROM public.{table}".encode())
    tokens = {"anon": {}, "A": {"token": token_a}, "B": {"token": token_b}, "service_role": {"key": SECRET}}
    return Users(tokens, names)


@pytest.fixture
def restored(project: Project) -> Iterator[None]:
    """Undo what a test changes: the server commits each request."""
    yield
    with psycopg.connect(project.url) as connection:
        connection.execute(b"SET LOCAL session_replication_role = replica")
        for table in TABLES:
            connection.execute(f"DELETE FROM public.{table}; INSERT INTO public.{table} TABLE saved.{table}".encode())


NEW_CRAWL = {"project_id": "{project}", "name": "x", "keywords": ["cat"]}
#: For each table and verb: the request, then for anon, A, B and service_role the number of rows, or the status.
#: A owns what the requests name.
REQUESTS: list[tuple[str, str, object, tuple[int, int, int, int]]] = [
    ("GET", "profiles", None, (-401, 1, 1, 2)),
    ("GET", "profiles?id=eq.{a}", None, (-401, 1, 0, 1)),
    ("POST", "profiles", {"id": "{spare}", "email": "x@example.org"}, (-401, -403, -403, 1)),
    ("PATCH", "profiles?id=eq.{a}", {"full_name": "Eve"}, (-401, 1, 0, 1)),
    ("PATCH", "profiles?id=eq.{a}", {"role": "admin"}, (-401, -403, -403, 1)),
    ("PATCH", "profiles?id=eq.{a}", {"email": "x@example.org"}, (-401, -403, -403, 1)),
    ("DELETE", "profiles?id=eq.{a}", None, (-401, -403, -403, 1)),
    ("GET", "projects?select=id,name,crawl_jobs(id,images(id))", None, (-401, 1, 1, 2)),
    ("POST", "projects", {"name": "more", "user_id": "{a}"}, (-401, 1, -403, 1)),
    ("PATCH", "projects?id=eq.{project}", {"status": "archived"}, (-401, 1, 0, 1)),
    ("PATCH", "projects?id=eq.{project}", {"user_id": "{b}"}, (-401, -403, -403, 1)),
    ("DELETE", "projects?id=eq.{project}", None, (-401, -403, -403, 1)),
    ("GET", "crawl_jobs", None, (-401, 2, 0, 2)),
    ("POST", "crawl_jobs", NEW_CRAWL, (-401, 1, -403, 1)),
    ("POST", "crawl_jobs", [NEW_CRAWL, NEW_CRAWL], (-401, 2, -403, 2)),
    ("POST", "crawl_jobs", {**NEW_CRAWL, "valid_images": 7}, (-401, -403, -403, 1)),
    ("POST", "crawl_jobs", {**NEW_CRAWL, "status": "completed"}, (-401, -403, -403, 1)),
    ("PATCH", "crawl_jobs?id=eq.{crawl}", {"max_images": 5}, (-401, 1, 0, 1)),
    ("PATCH", "crawl_jobs?id=eq.{running}", {"status": "cancelled"}, (-401, 1, 0, 1)),
    ("PATCH", "crawl_jobs?id=eq.{running}", {"status": "pending"}, (-401, -403, 0, 1)),
    ("PATCH", "crawl_jobs", {"progress": 99}, (-401, -403, -403, 2)),
    ("DELETE", "crawl_jobs?id=eq.{crawl}", None, (-401, -403, -403, 1)),
    ("GET", "images", None, (-401, 1, 0, 1)),
    (
        "POST",
        "images",
        {"crawl_job_id": "{crawl}", "original_url": "https://example.org/2", "filename": "2.jpg"},
        (-401, -403, -403, 1),
    ),
    ("PATCH", "images?id=eq.{image}", {"filename": "x"}, (-401, -403, -403, 1)),
    ("DELETE", "images?id=eq.{image}", None, (-401, -403, -403, 1)),
    ("GET", "activity_logs", None, (-401, 1, 0, 1)),
    ("POST", "activity_logs", {"user_id": "{a}", "action": "crawl_job.completed"}, (-401, -403, -403, 1)),
    ("PATCH", "activity_logs?id=eq.{log}", {"action": "x"}, (-401, -403, -403, 1)),
    ("DELETE", "activity_logs?id=eq.{log}", None, (-401, -403, -403, 1)),
    ("GET", "validation_jobs", None, (-401, 1, 0, 1)),
    ("POST", "validation_jobs", {"crawl_job_id": "{crawl}", "name": "x"}, (-401, 1, -403, 1)),
    ("PATCH", "validation_jobs?id=eq.{validation}", {"status": "failed"}, (-401, 1, 0, 1)),
    ("PATCH", "validation_jobs?id=eq.{validation}", {"status": "completed"}, (-401, -403, 0, 1)),
    ("DELETE", "validation_jobs?id=eq.{validation}", None, (-401, -403, -403, 1)),
    ("GET", "export_jobs?select=download_url", None, (-401, 1, 0, 1)),
    ("POST", "export_jobs", {"crawl_job_id": "{crawl}", "user_id": "{a}", "name": "x"}, (-401, 1, -403, 1)),
    ("PATCH", "export_jobs?id=eq.{export}", {"format": "csv"}, (-401, 1, 0, 1)),
    ("PATCH", "export_jobs?id=eq.{export}", {"download_url": "https://example.org"}, (-401, -403, -403, 1)),
    ("DELETE", "export_jobs?id=eq.{export}", None, (-401, -403, -403, 1)),
]


def filled(body: Any, names: dict[str, object]) -> Any:
    if isinstance(body, list):
        return [filled(one, names) for one in body]
    if isinstance(body, dict):
        return {name: filled(value, names) for name, value in body.items()}
    return body.format(**names) if isinstance(body, str) else body


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("case", REQUESTS, ids=[f"{method} {path}" for method, path, *_ in REQUESTS])
def test_each_request_gets_what_the_table_says(
    project: Project, users: Users, case: tuple[str, str, object, tuple[int, ...]]
) -> None:
    method, path, body, expected = case
    found = []
    for sent in users.tokens.values():
        answer = project.send(
            method,
            f"/rest/v1/{path.format(**users.names)}",
            json=filled(body, users.names),
            **sent,
        )
        found.append(len(answer.json()) if answer.is_success else -answer.status_code)
        if not answer.is_success:
            assert answer.json()["code"] == "42501"
    assert tuple(found) == expected


PROFILE = "SELECT email, role FROM profiles WHERE id = '{}'"


def test_a_sign_up_makes_a_profile_whose_address_follows_that_of_the_user(project: Project) -> None:
    # This server writes what users say of themselves as text within JSON, so the profile has no name here.
    user, token = project.sign_up("grace@example.org", full_name="Grace", role="admin")
    assert project.rows(PROFILE.format(user)) == [("grace@example.org", "user")]
    answer = project.send("PUT", "/auth/v1/user", token=token, json={"email": "hopper@example.org"})
    assert answer.status_code == 200, answer.text
    assert project.rows(PROFILE.format(user)) == [("grace@example.org", "user")]
    # As the link in the message to the new address does.
    ((token_hash,),) = project.rows(f"SELECT email_change_token_new FROM auth.users WHERE id = '{user}'")
    answer = project.send("POST", "/auth/v1/verify", json={"type": "email_change", "token_hash": token_hash})
    assert answer.status_code == 200, answer.text
    assert project.rows(PROFILE.format(user)) == [("hopper@example.org", "user")]


def test_the_private_schema_is_not_served(project: Project, users: Users) -> None:
    for sent in users.tokens.values():
        for headers in ({}, {"Accept-Profile": "pixcrawler"}):
            answer = project.send("GET", "/rest/v1/chunks", headers=headers, **sent)
            assert answer.status_code in {401, 403, 404, 406}, answer.text


def test_realtime_gets_the_changes_of_jobs_and_of_nothing_else(project: Project, users: Users) -> None:
    with psycopg.connect(project.url, autocommit=True) as connection:
        connection.execute(b"SELECT pg_create_logical_replication_slot('realtime', 'pgoutput')")
        try:
            answer = project.send(
                "PATCH",
                f"/rest/v1/crawl_jobs?id=eq.{users.names['crawl']}",
                json={"name": "a name for realtime"},
                **users.tokens["A"],
            )
            assert answer.is_success, answer.text
            project.send(
                "PATCH",
                f"/rest/v1/projects?id=eq.{users.names['project']}",
                json={"name": "a name of a project"},
                **users.tokens["A"],
            )
            changes = b"".join(
                line
                for (line,) in connection.execute(
                    b"SELECT data FROM pg_logical_slot_get_binary_changes('realtime', NULL, NULL,"
                    b" 'proto_version', '1', 'publication_names', 'supabase_realtime')"
                )
            )
        finally:
            connection.execute(b"SELECT pg_drop_replication_slot('realtime')")
    assert b"a name for realtime" in changes
    assert b"a name of a project" not in changes

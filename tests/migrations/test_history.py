"""The migrations, up and down: each one alone, and all of them."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import catalog
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine

from pixcrawler_worker.db import migrate, models, private_models, revisions, session

PROJECT = Path(__file__).parents[2]

_PROFILE = "INSERT INTO profiles (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'a@example.org')"


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _count(url: str, statement: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _version(url: str) -> str | None:
    engine = session.connect(url)
    try:
        return revisions.current(engine)
    finally:
        engine.dispose()


def _alembic(url: str | None = None) -> Config:
    """Return the configuration of the `alembic` command in a checkout, for a database."""
    config = Config(PROJECT / "alembic.ini")
    if url is not None:
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


# Compared with the models


def test_alembic_finds_no_difference_in_a_migrated_database(migrated: str) -> None:
    command.check(_alembic(migrated))


def test_alembic_finds_differences_in_both_schemas(migrated: str) -> None:
    _execute(
        migrated,
        """
        DROP INDEX ix_image_crawl_job_id;
        ALTER TABLE pixcrawler.chunks DROP COLUMN owner;
        ALTER TABLE projects ADD COLUMN extra text;
        ALTER TABLE projects ALTER COLUMN name DROP NOT NULL;
        ALTER TABLE crawl_jobs ALTER COLUMN max_images SET DEFAULT 10
        """,
    )
    with pytest.raises(CommandError) as found:
        command.check(_alembic(migrated))
    operations = ["add_index", "add_column", "remove_column", "modify_nullable", "modify_default"]
    assert [name for name in operations if f"('{name}'" not in str(found.value)] == []


def test_the_migrations_create_the_schema_of_the_models(migrated: str, new_database: Callable[..., str]) -> None:
    """Also what Alembic does not compare: checks, predicates, names of keys, the order of columns, storage."""
    modeled = new_database()
    _execute(modeled, f"CREATE SCHEMA {private_models.PRIVATE}")
    engine = create_engine(session.sqlalchemy_url(modeled), connect_args={"options": "-csearch_path=public"})
    models.Base.metadata.create_all(engine)
    engine.dispose()
    # The models have no functions and triggers, one of which is a constraint: see `test_updated_at.py` and `db/`.
    described = [
        line
        for line in catalog.describe(migrated)
        if not line.startswith(("function ", "trigger ")) and " TRIGGER DEFERRABLE" not in line
    ]
    assert described == catalog.describe(modeled)
    assert len(catalog.describe(migrated)) > 200


def test_the_documented_tables_are_public_even_for_a_role_named_like_the_private_schema(database: str) -> None:
    # The search path of such a role starts with that schema; the URL sets the same path.
    private_first = f"{database}&options=-csearch_path%3Dpixcrawler,public"
    migrate.upgrade(private_first)
    assert _count(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 7
    command.check(_alembic(private_first))


def test_the_documented_command_generates_the_migration_of_a_changed_model(migrated: str, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
    config = _alembic(migrated)
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    _execute(migrated, "DROP INDEX ix_image_crawl_job_id")
    command.revision(config, "Find images by job", autogenerate=True)
    (written,) = (tmp_path / "migrations/versions").glob("*_find_images_by_job.py")
    assert "op.create_index('ix_image_crawl_job_id'" in written.read_text()
    command.upgrade(config, "head")
    command.check(config)
    command.downgrade(config, "-1")


# Up and down


def test_every_migration_can_be_reverted_and_repeated(database: str) -> None:
    every = [script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()][::-1]
    assert len(every) >= 2
    before = catalog.describe(database)
    for revision in every:
        migrate.upgrade(database, revision)
        after = catalog.describe(database)
        assert after != before
        command.downgrade(_alembic(database), "-1")
        assert catalog.describe(database) == before
        migrate.upgrade(database, revision)
        assert catalog.describe(database) == after
        before = after
    assert _version(database) == revisions.head() == every[-1]


def test_a_downgrade_to_base_leaves_nothing_and_can_be_upgraded_again(migrated: str) -> None:
    complete = catalog.describe(migrated)
    _execute(migrated, _PROFILE)
    command.downgrade(_alembic(migrated), "base")
    assert catalog.describe(migrated) == []
    assert _version(migrated) is None
    migrate.upgrade(migrated)
    assert catalog.describe(migrated) == complete


def test_an_upgrade_of_a_database_that_is_up_to_date_changes_nothing(migrated: str) -> None:
    _execute(migrated, _PROFILE)
    before = catalog.describe(migrated)
    migrate.upgrade(migrated)
    assert catalog.describe(migrated) == before
    assert _count(migrated, "SELECT count(*) FROM profiles") == 1


def test_a_database_without_migrations_has_no_revision(database: str) -> None:
    assert _version(database) is None


# As a script


def _script() -> str:
    """Return the output of `alembic upgrade head --sql`, which needs no database."""
    config = _alembic()
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def test_the_script_creates_the_same_schema_as_the_command(database: str, migrated: str) -> None:
    notices: list[str | None] = []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute(_script().encode())
        settings = connection.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')")
        assert settings.fetchone() == ("0", '"$user", public')
    assert catalog.describe(database) == catalog.describe(migrated)
    assert _version(database) == revisions.head()
    assert notices == []


def test_a_script_that_fails_changes_nothing(database: str) -> None:
    _execute(database, "CREATE TABLE images (id integer)")
    before = catalog.describe(database)
    with pytest.raises(psycopg.errors.DuplicateTable, match="images"):
        _execute(database, _script())
    assert catalog.describe(database) == before


def test_the_script_sets_its_lock_timeout_after_the_advisory_lock_and_before_any_table() -> None:
    script = _script()
    steps = ["BEGIN", "pg_advisory_xact_lock", "SET LOCAL lock_timeout = '3s'", "CREATE TABLE", "COMMIT"]
    positions = [script.index(step) for step in steps]
    assert positions == sorted(positions)


# With Supabase

_AUTH = "CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)"
_REFERENCES = """
    SELECT count(*) FROM pg_constraint
    WHERE contype = 'f' AND conrelid = 'public.profiles'::regclass AND confrelid = to_regclass('auth.users')
"""


def test_with_supabase_a_profile_references_a_user_and_is_deleted_with_it(database: str) -> None:
    _execute(database, _AUTH)
    migrate.upgrade(database)
    assert _count(database, _REFERENCES) == 1
    command.check(_alembic(database))
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="fk_profiles_id_users"):
        _execute(database, _PROFILE)
    _execute(database, "INSERT INTO auth.users VALUES ('00000000-0000-0000-0000-000000000001')")
    _execute(database, _PROFILE)
    _execute(database, "DELETE FROM auth.users")
    assert _count(database, "SELECT count(*) FROM profiles") == 0


def test_with_supabase_a_downgrade_keeps_its_users(database: str) -> None:
    _execute(database, _AUTH)
    _execute(database, "INSERT INTO auth.users VALUES ('00000000-0000-0000-0000-000000000001')")
    migrate.upgrade(database)
    _execute(database, _PROFILE)
    command.downgrade(_alembic(database), "base")
    assert catalog.describe(database) == []
    assert _count(database, "SELECT count(*) FROM auth.users") == 1


def test_without_supabase_a_profile_references_no_other_table(migrated: str) -> None:
    assert _count(migrated, "SELECT count(*) FROM pg_constraint WHERE conname = 'fk_profiles_id_users'") == 0
    _execute(migrated, _PROFILE)

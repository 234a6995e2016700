"""The history of the schema leads from nothing to the models, and back, step by step."""

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

from pixcrawler_worker.db import migrate, models, session

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
        return migrate.current(engine)
    finally:
        engine.dispose()


def _alembic(url: str | None = None) -> Config:
    """Return what the `alembic` command reads in a checkout, pointed at a database."""
    config = Config(PROJECT / "alembic.ini")
    if url is not None:
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


# Against the models


def test_upgraded_from_empty_alembic_finds_nothing_to_add(migrated: str) -> None:
    command.check(_alembic(migrated))


def test_alembic_finds_what_a_database_lacks_in_both_schemas(migrated: str) -> None:
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


def test_the_migrations_make_exactly_what_the_models_describe(migrated: str, new_database: Callable[..., str]) -> None:
    """Down to what Alembic does not compare: checks, predicates, names of keys, the order of columns, storage."""
    modeled = new_database()
    _execute(modeled, f"CREATE SCHEMA {models.PRIVATE}")
    engine = create_engine(session.sqlalchemy_url(modeled), connect_args={"options": "-csearch_path=public"})
    models.Base.metadata.create_all(engine)
    engine.dispose()
    # Models know neither functions nor triggers: `test_updated_at.py` has those.
    described = [line for line in catalog.describe(migrated) if not line.startswith(("function ", "trigger "))]
    assert described == catalog.describe(modeled)
    assert len(catalog.describe(migrated)) > 200


def test_the_documented_tables_are_public_even_for_a_role_named_like_the_private_schema(database: str) -> None:
    # Such a role's default path begins with that schema; the address says the same here, whoever connects.
    own_schema_first = f"{database}&options=-csearch_path%3Dpixcrawler,public"
    migrate.upgrade(own_schema_first)
    assert _count(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 7
    command.check(_alembic(own_schema_first))


def test_a_changed_model_becomes_a_migration_by_the_documented_command(migrated: str, tmp_path: Path) -> None:
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


def test_every_step_can_be_undone_and_done_again(database: str) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()][::-1]
    assert len(revisions) >= 2
    before = catalog.describe(database)
    for revision in revisions:
        migrate.upgrade(database, revision)
        after = catalog.describe(database)
        assert after != before
        command.downgrade(_alembic(database), "-1")
        assert catalog.describe(database) == before
        migrate.upgrade(database, revision)
        assert catalog.describe(database) == after
        before = after
    assert _version(database) == migrate.head() == revisions[-1]


def test_the_way_back_to_nothing_leaves_nothing_and_the_way_up_is_open_again(migrated: str) -> None:
    whole = catalog.describe(migrated)
    _execute(migrated, _PROFILE)
    command.downgrade(_alembic(migrated), "base")
    assert catalog.describe(migrated) == []
    assert _version(migrated) is None
    migrate.upgrade(migrated)
    assert catalog.describe(migrated) == whole


def test_an_upgrade_of_a_database_that_is_up_to_date_changes_nothing(migrated: str) -> None:
    _execute(migrated, _PROFILE)
    before = catalog.describe(migrated)
    migrate.upgrade(migrated)
    assert catalog.describe(migrated) == before
    assert _count(migrated, "SELECT count(*) FROM profiles") == 1


def test_a_database_never_migrated_has_no_revision(database: str) -> None:
    assert _version(database) is None


# As a script


def _script() -> str:
    """What `alembic upgrade head --sql` prints; it needs no database."""
    config = _alembic()
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def test_the_script_makes_what_the_command_makes(database: str, migrated: str) -> None:
    notices: list[str | None] = []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute(_script().encode())
        settings = connection.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')")
        assert settings.fetchone() == ("0", '"$user", public')
    assert catalog.describe(database) == catalog.describe(migrated)
    assert _version(database) == migrate.head()
    assert notices == []


def test_a_script_that_fails_half_way_leaves_nothing(database: str) -> None:
    _execute(database, "CREATE TABLE images (id integer)")
    before = catalog.describe(database)
    with pytest.raises(psycopg.errors.DuplicateTable, match="images"):
        _execute(database, _script())
    assert catalog.describe(database) == before


def test_the_script_bounds_its_waiting_before_it_touches_a_table_and_after_its_turn_has_come() -> None:
    script = _script()
    steps = ["BEGIN", "pg_advisory_xact_lock", "SET LOCAL lock_timeout = '3s'", "CREATE TABLE", "COMMIT"]
    places = [script.index(step) for step in steps]
    assert places == sorted(places)


# Beside Supabase

_AUTH = "CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)"
_REFERENCES = """
    SELECT count(*) FROM pg_constraint
    WHERE contype = 'f' AND conrelid = 'public.profiles'::regclass AND confrelid = to_regclass('auth.users')
"""


def test_beside_supabase_a_profile_extends_a_user_and_goes_with_it(database: str) -> None:
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


def test_beside_supabase_the_way_back_leaves_its_users_alone(database: str) -> None:
    _execute(database, _AUTH)
    _execute(database, "INSERT INTO auth.users VALUES ('00000000-0000-0000-0000-000000000001')")
    migrate.upgrade(database)
    _execute(database, _PROFILE)
    command.downgrade(_alembic(database), "base")
    assert catalog.describe(database) == []
    assert _count(database, "SELECT count(*) FROM auth.users") == 1


def test_on_a_plain_cluster_a_profile_needs_no_other_table(migrated: str) -> None:
    assert _count(migrated, "SELECT count(*) FROM pg_constraint WHERE conname = 'fk_profiles_id_users'") == 0
    _execute(migrated, _PROFILE)

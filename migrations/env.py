"""Runs the migrations of a database: one process at a time, and without waiting long for locks of others.

All of a run is one transaction, and all of its settings and its lock end with it. So nothing stays behind on a
connection that a pooler hands to the next client.
"""

import os
import sys
from pathlib import Path

import psycopg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import BigInteger, Engine, create_engine, event, pool, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from pixcrawler_worker.db import models, private_models, session
from pixcrawler_worker.errors import PermanentError

#: Serializes the migrations of one database. The number is the ASCII codes of "pixcrawl".
_LOCK = int.from_bytes(b"pixcrawl")
#: Seconds to wait for the migrations of another process, unless a caller of `migrate.upgrade` has another limit.
_LOCK_SECONDS = 30
#: What `supabase.sql` raises for people to read.
_FOR_PEOPLE = "PX001"

#: Added where this is a database of Supabase; no model knows them.
_CONDITIONAL = {"fk_profiles_id_users", "supabase_undo"}
_SUPABASE_MODES = ("auto", "require", "off")

_HOLDERS = text("""
    SELECT string_agg(concat_ws(' ', 'pid', pid, nullif(application_name, ''), state), ', ' ORDER BY pid)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = :lock
""")


def _configure(connection: Connection | None) -> None:
    """Configure Alembic; without a connection it writes a script."""
    offline = connection is None
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        as_sql=offline,
        literal_binds=offline,
        target_metadata=models.Base.metadata,
        version_table_schema=private_models.PRIVATE,
        include_schemas=True,
        include_name=lambda name, kind, _: kind != "schema" or name in {None, "public", private_models.PRIVATE},
        include_object=lambda _object, name, _kind, _reflected, _other: name not in _CONDITIONAL,
        compare_server_default=True,
        # `deploy/ids-to-bigint.sql` is an operator's choice. None leaves all other types to Alembic.
        compare_type=lambda _context, _inspected, _column, found, modeled: (
            False if isinstance(modeled, models.ImageId) and isinstance(found, BigInteger) else None
        ),
    )


def _supabase_mode() -> str:
    """Return the value of `-x supabase=`, or of `pixcrawler db upgrade --supabase`."""
    given = context.get_x_argument(as_dictionary=True).get("supabase") or context.config.attributes.get("supabase")
    mode = given or "auto"
    if mode not in _SUPABASE_MODES:
        raise CommandError(f"-x supabase={mode}: expected one of {', '.join(_SUPABASE_MODES)}")
    return str(mode)


def _url() -> str:
    configured = context.config.get_main_option("sqlalchemy.url")
    found = configured or os.environ.get("PIXCRAWLER_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not found:
        raise SystemExit("set PIXCRAWLER_DATABASE_URL, for example postgresql:///pixcrawler")
    try:
        return session.sqlalchemy_url(found)
    except PermanentError as error:
        raise SystemExit(str(error)) from None


def _engine() -> Engine:
    made = create_engine(_url(), poolclass=pool.NullPool)

    # The default search path starts with the schema that has the name of the role: the role `pixcrawler` would create
    # the documented tables in the private schema. Inserted before the listener of SQLAlchemy that stores the default.
    @event.listens_for(made, "connect", insert=True)
    def prepare(connection: psycopg.Connection, _entry: ConnectionPoolEntry) -> None:
        # With another level by default, a run that has waited for the lock would not see what was migrated meanwhile.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.execute("SET LOCAL search_path = public")

    return made


def _offline() -> None:
    _configure(None)
    with context.begin_transaction():
        context.execute("SET LOCAL search_path = public")
        context.execute(f"SET LOCAL pixcrawler.supabase = '{_supabase_mode()}'")
        context.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        context.execute("SET LOCAL lock_timeout = '3s'")
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {private_models.PRIVATE}")
        context.run_migrations()


def _online(connection: Connection) -> None:
    mode = _supabase_mode()
    lock_seconds = int(context.config.attributes.get("lock_seconds", _LOCK_SECONDS))
    with connection.begin():
        session.set_local(connection)
        for name, value in (
            ("statement_timeout", "300s"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("lock_timeout", f"{lock_seconds}s"),
            ("pixcrawler.supabase", mode),
            # Alone: names of the other schema are written with it, also those that Alembic reads.
            ("search_path", "public"),
        ):
            connection.execute(text(f"SET LOCAL {name} = '{value}'"))
        if session.is_pooled(connection):
            sys.stderr.write(
                "the database is reached through a pooler, whose limits may end a long migration: "
                "use the port of PostgreSQL itself for migrations\n"
            )
        _lock(connection, lock_seconds)
        # From here on: a table that is locked stops the migration, not the service that waits behind it.
        connection.execute(text("SET LOCAL lock_timeout = '3s'"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {private_models.PRIVATE}"))
        _configure(connection)
        context.run_migrations()
        if _upgrades_to_head():
            # Also when there was nothing to migrate: a database may have become one of Supabase.
            connection.exec_driver_sql((Path(__file__).parent / "supabase.sql").read_text())


def _lock(connection: Connection, seconds: int) -> None:
    """Wait for the migrations of another process.

    Raises:
        CommandError: when they take too long; the message names the session that has the lock.
    """
    try:
        with connection.begin_nested():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        holders = connection.execute(_HOLDERS, {"lock": _LOCK}).scalar()
        raise CommandError(
            f"the lock for migrations was not free for {seconds} s: another process is migrating this database,"
            f" or a pooler has kept the lock of an earlier version (held by: {holders or 'unknown'})."
            " Try again; a session that migrates nothing can be ended with SELECT pg_terminate_backend(pid)"
        ) from None


def _upgrades_to_head() -> bool:
    opts = context.get_context().opts
    is_upgrade = getattr(opts.get("fn"), "__name__", "") == "upgrade"
    return is_upgrade and set(context.get_context().get_current_heads()) == set(context.script.get_heads())


if context.is_offline_mode():
    _offline()
else:
    engine = _engine()
    try:
        with engine.connect() as live:
            _online(live)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _FOR_PEOPLE:
            raise CommandError(str(error.orig).partition("\n")[0]) from None
        raise
    finally:
        engine.dispose()

"""Runs the migrations of a database: one process at a time, and without waiting long for locks of others."""

import os

from alembic import context
from sqlalchemy import Engine, create_engine, event, pool, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from pixcrawler_worker.db import models, session
from pixcrawler_worker.errors import PermanentError

#: Serializes the migrations of one database. The number is the ASCII codes of "pixcrawl".
_LOCK = int.from_bytes(b"pixcrawl")

#: Added by the first migration where Supabase's table of users exists; no model knows it.
_CONDITIONAL = {"fk_profiles_id_users"}


def _configure(connection: Connection | None) -> None:
    """Configure Alembic; without a connection it writes a script."""
    offline = connection is None
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        as_sql=offline,
        literal_binds=offline,
        # A script is one transaction: it is applied as a whole, and its settings end with it.
        transaction_per_migration=not offline,
        target_metadata=models.Base.metadata,
        version_table_schema=models.PRIVATE,
        include_schemas=True,
        include_name=lambda name, kind, _: kind != "schema" or name in {None, "public", models.PRIVATE},
        include_object=lambda _object, name, _kind, _reflected, _other: name not in _CONDITIONAL,
        compare_server_default=True,
    )


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
    def set_search_path(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.cursor().execute("SET search_path = public")
        connection.commit()

    return made


def _offline() -> None:
    _configure(None)
    with context.begin_transaction():
        context.execute("SET LOCAL search_path = public")
        context.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        context.execute("SET LOCAL lock_timeout = '3s'")
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {models.PRIVATE}")
        context.run_migrations()


def _online(connection: Connection) -> None:
    # Session-wide, because each migration is a transaction of its own.
    connection.execute(text("SET statement_timeout = '300s'"))
    connection.execute(text("SET idle_in_transaction_session_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
    # From here on: a table that is locked stops the migration, not the service that waits behind it.
    connection.execute(text("SET lock_timeout = '3s'"))
    connection.commit()
    try:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {models.PRIVATE}"))
        connection.commit()
        _configure(connection)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
        connection.commit()


if context.is_offline_mode():
    _offline()
else:
    engine = _engine()
    with engine.connect() as live:
        _online(live)
    engine.dispose()

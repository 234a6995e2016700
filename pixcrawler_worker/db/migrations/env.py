"""Runs the migrations: one at a time in the whole cluster, and never behind a lock that somebody holds for long."""

import os

from alembic import context
from sqlalchemy import create_engine, pool, text
from sqlalchemy.engine import Connection

from pixcrawler_worker.db import models, session

#: Serialises migrations of one database, whoever runs them. The number is the ASCII of "pixcrawl".
_LOCK = int.from_bytes(b"pixcrawl")

#: Added by the first migration where Supabase's table of users exists; no model knows it.
_CONDITIONAL = {"fk_profiles_id_users"}

_OPTIONS = {
    "target_metadata": models.Base.metadata,
    "version_table_schema": models.PRIVATE,
    "include_schemas": True,
    "include_name": lambda name, type_, _: type_ != "schema" or name in {None, "public", models.PRIVATE},
    "include_object": lambda _object, name, _type, _reflected, _other: name not in _CONDITIONAL,
    "compare_server_default": True,
    "transaction_per_migration": True,
}


def _address() -> str:
    configured = context.config.get_main_option("sqlalchemy.url")
    found = configured or os.environ.get("PIXCRAWLER_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not found:
        raise SystemExit("set PIXCRAWLER_DATABASE_URL, for example postgresql:///pixcrawler")
    return session.address(found)


def _offline() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True, as_sql=True, **_OPTIONS)
    context.execute(f"CREATE SCHEMA IF NOT EXISTS {models.PRIVATE}")
    with context.begin_transaction():
        context.execute("SET LOCAL lock_timeout = '3s'")
        context.run_migrations()


def _online(connection: Connection) -> None:
    # Session-wide, because each migration is a transaction of its own.
    connection.execute(text("SET statement_timeout = '300s'"))
    connection.execute(text("SET idle_in_transaction_session_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
    # From here on: a table that somebody else holds stops the migration, not the service behind it.
    connection.execute(text("SET lock_timeout = '3s'"))
    connection.commit()
    try:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {models.PRIVATE}"))
        connection.commit()
        context.configure(connection=connection, **_OPTIONS)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
        connection.commit()


if context.is_offline_mode():
    _offline()
else:
    engine = create_engine(_address(), poolclass=pool.NullPool)
    with engine.connect() as live:
        _online(live)
    engine.dispose()

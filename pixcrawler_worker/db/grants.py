"""The rights that a worker needs in the database, and which of them its role lacks.

`deploy/roles.sql` grants them; a test compares the two by running jobs with that role.
"""

from collections.abc import Sequence

from sqlalchemy import Engine, Table, TextClause, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db.models import Base
from pixcrawler_worker.db.private_models import PRIVATE
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import PermanentError, TransientError

#: Verbs on the documented tables. Locks of rows (`FOR KEY SHARE`) need the right to update some column of the table:
#: `UPDATE (updated_at)` is enough for those that a worker never changes.
_DOCUMENTED = {
    "profiles": ("SELECT", "UPDATE (updated_at)"),
    "projects": ("SELECT", "UPDATE (updated_at)"),
    "crawl_jobs": ("SELECT", "UPDATE"),
    "images": ("SELECT", "INSERT", "UPDATE"),
    "activity_logs": ("SELECT", "INSERT"),
    "validation_jobs": ("SELECT", "UPDATE"),
    "export_jobs": ("SELECT", "UPDATE"),
}
_SEQUENCES = ("public.images_id_seq", "public.activity_logs_id_seq", f"{PRIVATE}.chunks_id_seq", f"{PRIVATE}.fence")
_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")

# By the catalog: what is not there yet is for the migrations to make, and names in a schema cannot be resolved without
# the right to use it.
_MISSING = text("""
    WITH needed AS (
        SELECT * FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[]), CAST(:verbs AS text[]))
            WITH ORDINALITY AS needed (schema, name, verb, position)
    ), found AS MATERIALIZED (
        SELECT needed.*, 'd' AS kind, has_database_privilege(current_database(), verb) AS held
        FROM needed WHERE schema = ''
        UNION ALL
        SELECT needed.*, 'n', has_schema_privilege(n.oid, verb)
        FROM needed JOIN pg_namespace n ON n.nspname = schema WHERE name = ''
        UNION ALL
        SELECT needed.*, c.relkind::text, CASE
            WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, verb)
            WHEN verb LIKE '%(%' THEN has_any_column_privilege(c.oid, split_part(verb, ' ', 1))
            ELSE has_table_privilege(c.oid, verb) END
        FROM needed JOIN pg_namespace n ON n.nspname = schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = name
    )
    SELECT 'GRANT ' || string_agg(verb, ', ' ORDER BY position) || ' ON '
        || CASE min(kind) WHEN 'd' THEN 'DATABASE ' || quote_ident(current_database())
            WHEN 'n' THEN 'SCHEMA ' || quote_ident(schema)
            WHEN 'S' THEN 'SEQUENCE ' || quote_ident(schema) || '.' || quote_ident(name)
            ELSE quote_ident(schema) || '.' || quote_ident(name) END
        || ' TO ' || quote_ident(current_user)
    FROM found
    -- Materialized, because no right may be looked up before it is known what the name is that of.
    WHERE NOT held
    GROUP BY schema, name
    ORDER BY min(position)
""")

# A role that no policy is for would find the tables empty, and report nothing.
_HIDDEN = text("""
    SELECT 'CREATE POLICY ' || quote_ident(current_user) || ' ON public.' || quote_ident(c.relname)
        || ' TO ' || quote_ident(current_user) || ' USING (true) WITH CHECK (true)'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relname = ANY (CAST(:names AS text[])) AND row_security_active(c.oid)
    AND NOT EXISTS (
        SELECT FROM pg_policy p
        WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
        AND (0 = ANY (p.polroles) OR EXISTS (
            SELECT FROM unnest(p.polroles) AS role WHERE role <> 0 AND pg_has_role(role, 'USAGE')
        ))
    )
    ORDER BY c.relname
""")

# The role of Supabase, and of PostgREST, whose key is in every browser.
_OPEN = text("""
    SELECT DISTINCT r.rolname || ' has rights on public.' || c.relname
    FROM pg_roles r CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.rolname = 'anon' AND n.nspname = 'public' AND c.relname = ANY (CAST(:names AS text[]))
    AND NOT c.relrowsecurity AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
    ORDER BY 1
""")


def missing(engine: Engine) -> list[str]:
    """Return the statements that give the role of these connections what a worker needs; empty when it has it all.

    Raises:
        TransientError: when the database does not answer.
    """
    needed = [
        ("", "", "TEMPORARY"),
        ("public", "", "USAGE"),
        (PRIVATE, "", "USAGE"),
        (PRIVATE, "alembic_version", "SELECT"),
        *(("public", table, verb) for table, verbs in _DOCUMENTED.items() for verb in verbs),
        *((PRIVATE, table.name, verb) for table in _private_tables() for verb in _VERBS),
        *((*sequence.split("."), "USAGE") for sequence in _SEQUENCES),
    ]
    columns = dict(zip(("schemas", "names", "verbs"), map(list, zip(*needed, strict=True)), strict=True))
    return _lines(engine, _MISSING, **columns) + _lines(engine, _HIDDEN, names=list(_DOCUMENTED))


def require(engine: Engine) -> None:
    """Return if the role of these connections has the rights of a worker, else raise.

    Raises:
        PermanentError: when it lacks some; the message has the statements to run.
        TransientError: when the database does not answer.
    """
    if lacking := missing(engine):
        raise PermanentError(
            "the role of the worker lacks rights in the database: run deploy/roles.sql, or as the owner of the tables "
            + "; ".join(lacking)
        )


def exposed(engine: Engine) -> list[str]:
    """Return what is open to everyone by the API of Supabase, a line for each table.

    Raises:
        TransientError: when the database does not answer.
    """
    return _lines(engine, _OPEN, names=list(_DOCUMENTED))


def _private_tables() -> Sequence[Table]:
    return [table for table in Base.metadata.sorted_tables if table.schema == PRIVATE]


def _lines(engine: Engine, query: TextClause, **values: list[str]) -> list[str]:
    try:
        with engine.connect() as connection:
            return [str(line) for line in connection.scalars(query, values)]
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error

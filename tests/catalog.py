"""The objects of the schemas `public` and `pixcrawler` in the catalog of a database, to compare two databases."""

import psycopg

_IN_OUR_SCHEMAS = (
    "relnamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler')) AND relname !~ '^alembic_version'"
)

_QUERIES = {
    "relation": f"""
        SELECT format('%s %s %s', relkind, oid::regclass, reloptions) FROM pg_class WHERE {_IN_OUR_SCHEMAS}
    """,
    "column": f"""
        SELECT format(
            '%s.%s %s %s not null=%s default=%s identity=%s collation=%s',
            attrelid::regclass, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), attname,
            format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attidentity,
            attcollation::regcollation
        )
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped AND {_IN_OUR_SCHEMAS}
    """,
    "constraint": f"""
        SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid))
        FROM pg_class JOIN pg_constraint ON conrelid = pg_class.oid WHERE {_IN_OUR_SCHEMAS}
    """,
    "index": f"""
        SELECT pg_get_indexdef(oid) FROM pg_class WHERE relkind = 'i' AND {_IN_OUR_SCHEMAS}
    """,
    "sequence": f"""
        SELECT format('%s %s %s %s', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement)
        FROM pg_class JOIN pg_sequence ON seqrelid = pg_class.oid WHERE {_IN_OUR_SCHEMAS}
    """,
    "type": """
        SELECT format('%s %s', typtype, oid::regtype) FROM pg_type
        WHERE typtype IN ('d', 'e', 'r')
        AND typnamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler'))
    """,
    "trigger": f"""
        SELECT pg_get_triggerdef(pg_trigger.oid) FROM pg_class JOIN pg_trigger ON tgrelid = pg_class.oid
        WHERE NOT tgisinternal AND {_IN_OUR_SCHEMAS}
    """,
    "function": """
        SELECT oid::regprocedure || ' ' || md5(prosrc) FROM pg_proc
        WHERE pronamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler'))
    """,
}


def describe(url: str) -> list[str]:
    """Return a line for every object in `public` and `pixcrawler` but the table of Alembic, sorted."""
    with psycopg.connect(url) as connection:
        # Neither schema is in the search path, so every name is printed with its schema.
        connection.execute("SET search_path = pg_catalog")
        return sorted(
            f"{kind} {line}" for kind, query in _QUERIES.items() for (line,) in connection.execute(query.encode())
        )

"""What a database's own catalog says about the two schemas of ours: everything that a migration could get wrong."""

import psycopg

_OURS = "relnamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler')) AND relname !~ '^alembic_version'"

_QUERIES = {
    "relation": f"""
        SELECT format('%s %s %s', relkind, oid::regclass, reloptions) FROM pg_class WHERE {_OURS}
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
        WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped AND {_OURS}
    """,
    "constraint": f"""
        SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid))
        FROM pg_class JOIN pg_constraint ON conrelid = pg_class.oid WHERE {_OURS}
    """,
    "index": f"""
        SELECT pg_get_indexdef(oid) FROM pg_class WHERE relkind = 'i' AND {_OURS}
    """,
    "sequence": f"""
        SELECT format('%s %s %s %s', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement)
        FROM pg_class JOIN pg_sequence ON seqrelid = pg_class.oid WHERE {_OURS}
    """,
    "type": """
        SELECT format('%s %s', typtype, oid::regtype) FROM pg_type
        WHERE typtype IN ('d', 'e', 'r')
        AND typnamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler'))
    """,
    "trigger": f"""
        SELECT pg_get_triggerdef(pg_trigger.oid) FROM pg_class JOIN pg_trigger ON tgrelid = pg_class.oid
        WHERE NOT tgisinternal AND {_OURS}
    """,
    "function": """
        SELECT oid::regprocedure || ' ' || md5(prosrc) FROM pg_proc
        WHERE pronamespace IN (to_regnamespace('public'), to_regnamespace('pixcrawler'))
    """,
}


def describe(url: str) -> list[str]:
    """Return one sorted line for everything in `public` and `pixcrawler`, Alembic's own table left out."""
    with psycopg.connect(url) as connection:
        # Nothing of ours is on the path, so every name is printed with its schema.
        connection.execute("SET search_path = pg_catalog")
        return sorted(
            f"{kind} {line}" for kind, query in _QUERIES.items() for (line,) in connection.execute(query.encode())
        )

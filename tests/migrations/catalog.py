"""What the catalogs say of an archive's schema, in an order that does not depend on how it came about.

Columns of a table are compared by name: one that a migration adds stands last, and in migrations/schema/ where it
belongs. Alembic's own table and the daily partitions, which are made from `segments`, are left out.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

__all__ = ["describe"]

_OURS: LiteralString = """
    c.relnamespace = 'tailrace'::regnamespace AND c.relname !~ '^segments_[0-9]+' AND c.relname <> 'alembic_version'"""

_QUERIES: dict[str, LiteralString] = {
    "relations": f"""
        SELECT c.relname, c.relkind, c.reloptions, c.relacl::text, pg_get_partkeydef(c.oid), obj_description(c.oid)
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'S') AND {_OURS}""",
    "columns": f"""
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attstorage,
               a.attcompression, a.attacl::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum),
               CASE WHEN c.relkind = 'v' THEN a.attnum END
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped AND {_OURS}""",
    "constraints": f"""
        SELECT c.relname, k.conname, k.convalidated, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype <> 'n' AND {_OURS}""",
    "indexes": f"""
        SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid, obj_description(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE {_OURS}""",
    "triggers": f"""
        SELECT c.relname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND {_OURS}""",
    "views": f"SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_class c WHERE c.relkind = 'v' AND {_OURS}",
    "sequences": """
        SELECT s.sequencename, s.data_type::text, s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle
        FROM pg_sequences s WHERE s.schemaname = 'tailrace'""",
    "functions": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text, obj_description(p.oid)
        FROM pg_proc p WHERE p.pronamespace = 'tailrace'::regnamespace""",
    "types": """
        SELECT t.typname, t.typtype FROM pg_type t
        WHERE t.typnamespace = 'tailrace'::regnamespace AND t.typrelid = 0 AND t.typelem = 0""",
    "rows": "SELECT e.name, e.api_url FROM tailrace.environments e",
}


def describe(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the parts of the schema by kind, each sorted: equal for equal schemas."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        found: dict[str, list[tuple[Any, ...]]] = {}
        for kind, query in _QUERIES.items():
            rows = connection.execute(query).fetchall()
            found[kind] = sorted(rows, key=repr)
    return found

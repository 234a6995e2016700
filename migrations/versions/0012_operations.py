"""For those who run it: closed tables on Supabase, and autovacuum settings for the rows that change most.

Elsewhere than on Supabase only the settings are new. Code of revision 0011 runs on it.
"""

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_FOLDER = Path(__file__).parents[1]

# Each chunk updates its own row several times, and that of its job about twice. By default PostgreSQL vacuums a table
# when a fifth of its rows is dead; a job's row is one of few, and would have thousands of dead versions by then.
_STORAGE = {
    "pixcrawler.chunks": {
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_threshold": "500",
        "autovacuum_analyze_scale_factor": "0.05",
    },
    "public.crawl_jobs": {
        "fillfactor": "50",
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_threshold": "200",
        "autovacuum_analyze_scale_factor": "0.05",
    },
}


def upgrade() -> None:
    for table, settings in _STORAGE.items():
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in settings.items())})")
    op.execute((_FOLDER / "supabase.sql").read_text())


def downgrade() -> None:
    op.execute((_FOLDER / "supabase_undo.sql").read_text())
    for table, settings in _STORAGE.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(settings)})")

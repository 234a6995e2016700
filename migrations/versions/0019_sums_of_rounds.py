"""What the rounds of a crawl have brought is kept as sums, and what is shown of a job is found by indexes.

Jobs of before have no sums: their chunks are read, and summed up when their next round ends. Code of revision 0018 runs
on it: it keeps no sums, and those of a job that it retries are not used any more.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_chunks_crawl_job_id_failed": ("chunks", "state = 'failed'"),
    "ix_crawl_candidates_retriable": ("crawl_candidates", "retriable"),
}


def upgrade() -> None:
    op.add_column("crawl_plans", sa.Column("history", postgresql.JSONB), schema="pixcrawler")
    for name, (table, condition) in _INDEXES.items():
        op.create_index(name, table, ["crawl_job_id"], schema="pixcrawler", postgresql_where=sa.text(condition))


def downgrade() -> None:
    for name, (table, _) in _INDEXES.items():
        op.drop_index(name, table, schema="pixcrawler")
    op.drop_column("crawl_plans", "history", schema="pixcrawler")

"""The next chunk of a job is found at once: fair turns look at all jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEYS = ("crawl_job_id", "validation_job_id", "export_job_id")


def upgrade() -> None:
    for key in _KEYS:
        op.create_index(
            f"ix_chunks_{key}_queued",
            "chunks",
            [key, "seq"],
            schema="pixcrawler",
            postgresql_where=sa.text(f"state = 'queued' AND {key} IS NOT NULL"),
        )


def downgrade() -> None:
    for key in _KEYS:
        op.drop_index(f"ix_chunks_{key}_queued", "chunks", schema="pixcrawler")

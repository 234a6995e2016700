"""What became of each candidate: why it was rejected, and whether it may be tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("url", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("retriable", sa.Boolean(), server_default="false", nullable=False),
    ):
        op.add_column("crawl_candidates", column, schema="pixcrawler")


def downgrade() -> None:
    for name in ("retriable", "reason", "url"):
        op.drop_column("crawl_candidates", name, schema="pixcrawler")

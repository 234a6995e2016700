"""What is known of a candidate that was rejected: its class, details, HTTP status, attempts and time."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("label", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("attempts", sa.Integer(), server_default="1", nullable=False),
        # Of rows that are there already it is not known, and they are not rewritten.
        sa.Column("tried_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("crawl_candidates", column, schema="pixcrawler")


def downgrade() -> None:
    for name in ("tried_at", "attempts", "http_status", "detail", "label"):
        op.drop_column("crawl_candidates", name, schema="pixcrawler")

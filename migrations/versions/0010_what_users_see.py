"""What users see of a job: what is known of its rejected candidates, and the images of chunks that still run."""

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
    op.add_column("chunks", sa.Column("live_images", sa.Integer()), schema="pixcrawler")
    op.add_column("chunks", sa.Column("live_fence", sa.BigInteger()), schema="pixcrawler")


def downgrade() -> None:
    op.drop_column("chunks", "live_fence", schema="pixcrawler")
    op.drop_column("chunks", "live_images", schema="pixcrawler")
    for name in ("tried_at", "attempts", "http_status", "detail", "label"):
        op.drop_column("crawl_candidates", name, schema="pixcrawler")

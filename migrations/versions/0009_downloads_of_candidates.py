"""How often the body of each candidate was downloaded, so that a job counts it once."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What earlier versions rejected for now is counted when a retry downloads it.
    column = sa.Column("downloads", sa.Integer(), server_default="0", nullable=False)
    op.add_column("crawl_candidates", column, schema="pixcrawler")


def downgrade() -> None:
    op.drop_column("crawl_candidates", "downloads", schema="pixcrawler")

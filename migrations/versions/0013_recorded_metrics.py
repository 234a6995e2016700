"""What the decode of a crawl measures of an image, so that a validation of unchanged bytes need not decode them again.

Rows that are there already have none: they are measured when they are validated. Code of revision 0012 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("image_facts", sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text())), schema="pixcrawler")
    op.add_column("image_facts", sa.Column("metrics_version", sa.SmallInteger()), schema="pixcrawler")


def downgrade() -> None:
    op.drop_column("image_facts", "metrics_version", schema="pixcrawler")
    op.drop_column("image_facts", "metrics", schema="pixcrawler")

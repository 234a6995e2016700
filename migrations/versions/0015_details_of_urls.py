"""What a URL list says about its images besides their URLs: captions, labels and all other columns.

Code of revision 0014 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("crawl_urls", sa.Column("details", postgresql.ARRAY(postgresql.JSONB())), schema="pixcrawler")


def downgrade() -> None:
    op.drop_column("crawl_urls", "details", schema="pixcrawler")

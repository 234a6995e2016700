"""Captions and columns of URL lists: of images, of candidates that were rejected, and of datasets.

Rows that are there already have none. Code of revision 0015 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("image_facts", "caption", sa.Text),
    ("image_facts", "columns", postgresql.JSONB),
    ("crawl_candidates", "list_details", postgresql.JSONB),
    ("export_plans", "columns", postgresql.JSONB),
)


def upgrade() -> None:
    for table, name, type_ in _COLUMNS:
        op.add_column(table, sa.Column(name, type_()), schema="pixcrawler")


def downgrade() -> None:
    for table, name, _ in _COLUMNS:
        op.drop_column(table, name, schema="pixcrawler")

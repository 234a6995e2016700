"""An export of a dataset that was extended has images of several crawl jobs, each with a validation of its own.

Exports that are planned already have the images of one. Code of revision 0017 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("export_plans", sa.Column("validation_job_ids", postgresql.ARRAY(sa.Integer())), schema="pixcrawler")


def downgrade() -> None:
    op.drop_column("export_plans", "validation_job_ids", schema="pixcrawler")

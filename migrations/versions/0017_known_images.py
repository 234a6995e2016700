"""Which URLs and bytes other jobs of a project have, and which jobs the dataset of a job extends.

Hash indexes: they are asked for single values only, and take half of the space of a B-tree of digests. Code of revision
0016 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_COLUMNS = ("url_hash", "sha256")


def upgrade() -> None:
    op.add_column(
        "crawl_plans",
        sa.Column("bases", postgresql.ARRAY(sa.Integer()), server_default="{}", nullable=False),
        schema="pixcrawler",
    )
    for column in _COLUMNS:
        op.create_index(
            f"ix_image_facts_{column}", "image_facts", [column], schema="pixcrawler", postgresql_using="hash"
        )


def downgrade() -> None:
    for column in _COLUMNS:
        op.drop_index(f"ix_image_facts_{column}", "image_facts", schema="pixcrawler")
    op.drop_column("crawl_plans", "bases", schema="pixcrawler")

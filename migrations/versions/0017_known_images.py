"""Which URLs and bytes other jobs of a project have, and which jobs the dataset of a job extends.

The unique indexes of facts begin with the hashes, so that they find these in all jobs. What a job has is found by its
images, which belong to it by a foreign key: that of the facts is checked for each row besides, and adds nothing. Code
of revision 0016 runs on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_HASHES = ("url_hash", "sha256")
_JOB_KEY = "fk_image_facts_crawl_job_id_crawl_jobs"


def upgrade() -> None:
    op.add_column(
        "crawl_plans",
        sa.Column("bases", postgresql.ARRAY(sa.Integer()), server_default="{}", nullable=False),
        schema="pixcrawler",
    )
    op.drop_constraint(_JOB_KEY, "image_facts", schema="pixcrawler")
    for name in _HASHES:
        _replace_index(
            f"uq_image_facts_crawl_job_id_{name}", f"uq_image_facts_{name}_crawl_job_id", name, "crawl_job_id"
        )


def downgrade() -> None:
    for name in _HASHES:
        _replace_index(
            f"uq_image_facts_{name}_crawl_job_id", f"uq_image_facts_crawl_job_id_{name}", "crawl_job_id", name
        )
    op.create_foreign_key(
        _JOB_KEY,
        "image_facts",
        "crawl_jobs",
        ["crawl_job_id"],
        ["id"],
        source_schema="pixcrawler",
        ondelete="CASCADE",
    )
    op.drop_column("crawl_plans", "bases", schema="pixcrawler")


def _replace_index(old: str, new: str, *columns: str) -> None:
    op.create_index(new, "image_facts", columns, unique=True, schema="pixcrawler")
    op.drop_index(old, "image_facts", schema="pixcrawler")

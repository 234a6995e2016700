"""Validations: the rules that each was started with, and a result per image (table `verdicts`)."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "validation_plans",
        sa.Column("validation_job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("effective", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column(
            "requested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["validation_job_id"],
            ["validation_jobs.id"],
            name=op.f("fk_validation_plans_validation_job_id_validation_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("validation_job_id", name=op.f("pk_validation_plans")),
        schema="pixcrawler",
    )
    op.create_table(
        "verdicts",
        sa.Column("validation_job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("image_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("valid", sa.Boolean(), nullable=False),
        sa.Column("findings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("phash", sa.BigInteger(), nullable=True),
        sa.Column("dhash", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("file_size", sa.Integer(), nullable=True),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("keeper_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["validation_job_id"],
            ["validation_jobs.id"],
            name=op.f("fk_verdicts_validation_job_id_validation_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("validation_job_id", "image_id", name=op.f("pk_verdicts")),
        schema="pixcrawler",
    )


def downgrade() -> None:
    op.drop_table("verdicts", schema="pixcrawler")
    op.drop_table("validation_plans", schema="pixcrawler")

"""The ledger: the worker's private tables, in a schema that no API exposes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("fence", schema="pixcrawler")))
    op.create_table(
        "crawl_candidates",
        sa.Column("crawl_job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("url_hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_crawl_candidates_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("crawl_job_id", "url_hash", name=op.f("pk_crawl_candidates")),
        schema="pixcrawler",
    )
    op.create_table(
        "crawl_plans",
        sa.Column("crawl_job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "options",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("round", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "requested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("cleaned_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_crawl_plans_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("crawl_job_id", name=op.f("pk_crawl_plans")),
        schema="pixcrawler",
    )
    op.create_table(
        "crawl_urls",
        sa.Column("crawl_job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("page", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("urls", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_crawl_urls_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("crawl_job_id", "page", name=op.f("pk_crawl_urls")),
        schema="pixcrawler",
    )
    op.create_table(
        "chunks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=True),
        sa.Column("validation_job_id", sa.Integer(), nullable=True),
        sa.Column("export_job_id", sa.Integer(), nullable=True),
        sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.String(length=10), server_default="queued", nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("crash_count", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "available_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatch_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_chunks_lease_while_running")
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_chunks_state_known"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(crawl_job_id, validation_job_id, export_job_id) = 1", name=op.f("ck_chunks_one_job")
        ),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_chunks_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["export_job_id"],
            ["export_jobs.id"],
            name=op.f("fk_chunks_export_job_id_export_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["validation_job_id"],
            ["validation_jobs.id"],
            name=op.f("fk_chunks_validation_job_id_validation_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunks")),
        schema="pixcrawler",
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_chunks_available_at",
        "chunks",
        ["available_at"],
        unique=False,
        schema="pixcrawler",
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_chunks_lease_until",
        "chunks",
        ["lease_until"],
        unique=False,
        schema="pixcrawler",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "uq_chunks_crawl_job_id_seq",
        "chunks",
        ["crawl_job_id", "seq"],
        unique=True,
        schema="pixcrawler",
        postgresql_where=sa.text("crawl_job_id IS NOT NULL"),
    )
    op.create_index(
        "uq_chunks_export_job_id_seq",
        "chunks",
        ["export_job_id", "seq"],
        unique=True,
        schema="pixcrawler",
        postgresql_where=sa.text("export_job_id IS NOT NULL"),
    )
    op.create_index(
        "uq_chunks_validation_job_id_seq",
        "chunks",
        ["validation_job_id", "seq"],
        unique=True,
        schema="pixcrawler",
        postgresql_where=sa.text("validation_job_id IS NOT NULL"),
    )
    op.create_table(
        "image_facts",
        sa.Column("image_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("url_hash", sa.LargeBinary(), nullable=False),
        sa.Column("phash", sa.BigInteger(), nullable=False),
        sa.Column("dhash", sa.BigInteger(), nullable=False),
        sa.Column("hash_version", sa.SmallInteger(), nullable=False),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=50), nullable=False),
        sa.Column("page_url", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("author", sa.Text(), nullable=True),
        sa.Column("license", sa.Text(), nullable=True),
        sa.Column("license_url", sa.Text(), nullable=True),
        sa.Column("attribution", sa.Text(), nullable=True),
        sa.Column(
            "crawled_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_image_facts_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_image_facts_image_id_images"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_image_facts")),
        schema="pixcrawler",
    )
    op.create_index(
        "uq_image_facts_crawl_job_id_sha256",
        "image_facts",
        ["crawl_job_id", "sha256"],
        unique=True,
        schema="pixcrawler",
    )
    op.create_index(
        "uq_image_facts_crawl_job_id_url_hash",
        "image_facts",
        ["crawl_job_id", "url_hash"],
        unique=True,
        schema="pixcrawler",
    )


def downgrade() -> None:
    op.drop_table("image_facts", schema="pixcrawler")
    op.drop_table("chunks", schema="pixcrawler")
    op.drop_table("crawl_urls", schema="pixcrawler")
    op.drop_table("crawl_plans", schema="pixcrawler")
    op.drop_table("crawl_candidates", schema="pixcrawler")
    op.execute(sa.schema.DropSequence(sa.Sequence("fence", schema="pixcrawler")))

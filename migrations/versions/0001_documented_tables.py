"""The seven tables of `docs/database-schema.md`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "profiles",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=255), nullable=False),
        sa.Column("full_name", sa.String(length=100), nullable=True),
        sa.Column("avatar_url", sa.Text(), nullable=True),
        sa.Column("role", sa.String(length=20), server_default="user", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_profiles")),
    )
    op.create_index("ix_profiles_email", "profiles", ["email"], unique=True)
    op.create_table(
        "activity_logs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.String(length=50), nullable=True),
        sa.Column("resource_id", sa.String(length=50), nullable=True),
        sa.Column("metadata_", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("timestamp", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["profiles.id"], name=op.f("fk_activity_logs_user_id_profiles"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activity_logs")),
    )
    op.create_index("ix_activity_log_timestamp", "activity_logs", ["timestamp"], unique=False)
    op.create_index("ix_activity_log_user_id", "activity_logs", ["user_id"], unique=False)
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="active", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["profiles.id"], name=op.f("fk_projects_user_id_profiles"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
    )
    op.create_index("ix_project_user_id", "projects", ["user_id"], unique=False)
    op.create_table(
        "crawl_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("keywords", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("max_images", sa.Integer(), server_default="1000", nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("downloaded_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("valid_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("completed_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_chunks", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "task_ids",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("active_chunks >= 0", name=op.f("ck_crawl_jobs_active_chunks_not_negative")),
        sa.CheckConstraint("completed_chunks >= 0", name=op.f("ck_crawl_jobs_completed_chunks_not_negative")),
        sa.CheckConstraint("downloaded_images >= 0", name=op.f("ck_crawl_jobs_downloaded_images_not_negative")),
        sa.CheckConstraint("failed_chunks >= 0", name=op.f("ck_crawl_jobs_failed_chunks_not_negative")),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_crawl_jobs_progress_range")),
        sa.CheckConstraint("total_chunks >= 0", name=op.f("ck_crawl_jobs_total_chunks_not_negative")),
        sa.CheckConstraint("total_images >= 0", name=op.f("ck_crawl_jobs_total_images_not_negative")),
        sa.CheckConstraint("valid_images >= 0", name=op.f("ck_crawl_jobs_valid_images_not_negative")),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_crawl_jobs_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crawl_jobs")),
    )
    op.create_index("ix_crawl_job_project_status", "crawl_jobs", ["project_id", "status"], unique=False)
    op.create_index("ix_crawl_job_status", "crawl_jobs", ["status"], unique=False)
    op.create_table(
        "export_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("format", sa.String(length=20), server_default="zip", nullable=False),
        sa.Column("total_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("exported_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("file_size", sa.Integer(), nullable=True),
        sa.Column("download_url", sa.Text(), nullable=True),
        sa.Column(
            "export_options",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("exported_images >= 0", name=op.f("ck_export_jobs_exported_images_not_negative")),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_export_jobs_progress_range")),
        sa.CheckConstraint("total_images >= 0", name=op.f("ck_export_jobs_total_images_not_negative")),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_export_jobs_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["profiles.id"], name=op.f("fk_export_jobs_user_id_profiles"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_jobs")),
    )
    op.create_index("ix_export_job_crawl_job_id", "export_jobs", ["crawl_job_id"], unique=False)
    op.create_index("ix_export_job_status", "export_jobs", ["status"], unique=False)
    op.create_index("ix_export_job_user_id", "export_jobs", ["user_id"], unique=False)
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=False),
        sa.Column("original_url", sa.Text(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("storage_url", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("file_size", sa.Integer(), nullable=True),
        sa.Column("format", sa.String(length=10), nullable=True),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_images_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
    )
    op.create_index("ix_image_crawl_job_id", "images", ["crawl_job_id"], unique=False)
    op.create_table(
        "validation_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("validated_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("invalid_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "validation_rules",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("invalid_images >= 0", name=op.f("ck_validation_jobs_invalid_images_not_negative")),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_validation_jobs_progress_range")),
        sa.CheckConstraint("total_images >= 0", name=op.f("ck_validation_jobs_total_images_not_negative")),
        sa.CheckConstraint("validated_images >= 0", name=op.f("ck_validation_jobs_validated_images_not_negative")),
        sa.ForeignKeyConstraint(
            ["crawl_job_id"],
            ["crawl_jobs.id"],
            name=op.f("fk_validation_jobs_crawl_job_id_crawl_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_validation_jobs")),
    )
    op.create_index("ix_validation_job_crawl_job_id", "validation_jobs", ["crawl_job_id"], unique=False)
    op.create_index("ix_validation_job_status", "validation_jobs", ["status"], unique=False)
    # On Supabase a profile extends a user of auth.users; elsewhere its id is a plain primary key.
    op.execute("""
        DO $$ BEGIN
            IF to_regclass('auth.users') IS NOT NULL THEN
                ALTER TABLE profiles ADD CONSTRAINT fk_profiles_id_users
                    FOREIGN KEY (id) REFERENCES auth.users (id) ON DELETE CASCADE;
            END IF;
        END $$
    """)


def downgrade() -> None:
    op.drop_table("validation_jobs")
    op.drop_table("images")
    op.drop_table("export_jobs")
    op.drop_table("crawl_jobs")
    op.drop_table("projects")
    op.drop_table("activity_logs")
    op.drop_table("profiles")

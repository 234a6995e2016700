"""`updated_at` changes on every update, also by clients that write plain SQL and do not set it."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: The documented tables that have the column.
_TABLES = ("profiles", "projects", "crawl_jobs", "validation_jobs", "export_jobs")

# A statement that sets the column itself is left alone: the worker does so, in the UPDATE that it needs anyway.
_FUNCTION = """
CREATE FUNCTION pixcrawler.set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER pixcrawler_updated_at BEFORE UPDATE ON public.{table} FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION pixcrawler.set_updated_at()
"""


def upgrade() -> None:
    op.execute(_FUNCTION)
    for table in _TABLES:
        op.execute(_TRIGGER.format(table=table))


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP TRIGGER pixcrawler_updated_at ON public.{table}")
    op.execute("DROP FUNCTION pixcrawler.set_updated_at()")

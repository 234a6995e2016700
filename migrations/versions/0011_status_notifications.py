"""A notification for each change of a job's status: see decision 0035.

Only additions: code of revision 0010 runs on it.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KINDS = ("crawl", "validation", "export")

_NOTIFY = """
CREATE FUNCTION pixcrawler.notify_status() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify(
        'pixcrawler_jobs', json_build_object('kind', TG_ARGV[0], 'id', NEW.id, 'status', NEW.status)::text
    );
    RETURN NULL;
END
$$
"""
# Counters change with each chunk, the status three times in the life of a job.
_TRIGGER = """
CREATE TRIGGER pixcrawler_notify AFTER UPDATE OF status ON public.{kind}_jobs FOR EACH ROW
WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION pixcrawler.notify_status('{kind}')
"""


def upgrade() -> None:
    op.execute(_NOTIFY)
    for kind in _KINDS:
        op.execute(_TRIGGER.format(kind=kind))


def downgrade() -> None:
    for kind in _KINDS:
        op.execute(f"DROP TRIGGER pixcrawler_notify ON public.{kind}_jobs")
    op.execute("DROP FUNCTION pixcrawler.notify_status()")

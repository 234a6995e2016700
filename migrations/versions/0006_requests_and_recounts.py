"""Requests of an API, the count of valid images after a delete, and the loss of messages in the broker.

Only additions: code of revision 0005 runs on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: What functions for other roles have in common: the rights of the owner, and no name that a caller can redirect.
_FOR_OTHERS = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"

# Counted at the end of the transaction, when no statement of it follows that could wait for a lock, and without waiting
# for one itself: so the count deadlocks with nothing, whatever the order in which an API deletes. The mark of a job
# that is locked at that moment stays, and the next sweep counts.
_COUNT = """
CREATE FUNCTION pixcrawler.count_valid_images() RETURNS trigger {for_others} AS $$
DECLARE
    effective integer;
    counted bigint;
BEGIN
    -- An older snapshot does not see the images that chunks have brought since.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN NULL;
    END IF;
    PERFORM FROM pixcrawler.recounts WHERE id = NEW.id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM public.crawl_jobs WHERE id = NEW.crawl_job_id FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Before it is counted: what a mark that is committed later stands for may not be seen by this count.
    DELETE FROM pixcrawler.recounts WHERE crawl_job_id = NEW.crawl_job_id;
    SELECT v.id INTO effective
    FROM public.validation_jobs v JOIN pixcrawler.validation_plans p ON p.validation_job_id = v.id
    WHERE v.crawl_job_id = NEW.crawl_job_id AND v.status = 'completed' AND p.effective
    ORDER BY v.completed_at DESC, v.id DESC
    LIMIT 1;
    SELECT count(*) INTO counted FROM public.images WHERE crawl_job_id = NEW.crawl_job_id;
    IF effective IS NOT NULL THEN
        SELECT counted - count(*) INTO counted
        FROM pixcrawler.verdicts r JOIN public.images i ON i.id = r.image_id
        WHERE r.validation_job_id = effective AND NOT r.valid;
    END IF;
    UPDATE public.crawl_jobs SET valid_images = least(counted, max_images), updated_at = clock_timestamp()
    WHERE id = NEW.crawl_job_id AND valid_images IS DISTINCT FROM least(counted, max_images);
    RETURN NULL;
END
$$
"""
_COUNT_TRIGGER = """
CREATE CONSTRAINT TRIGGER count_valid_images AFTER INSERT ON pixcrawler.recounts
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pixcrawler.count_valid_images()
"""

# A job that the same transaction has deleted is not visible any more and gets no mark.
_MARK_BY_VALIDATION = """
CREATE FUNCTION pixcrawler.mark_job_of_validation() RETURNS trigger {for_others} AS $$
BEGIN
    INSERT INTO pixcrawler.recounts (crawl_job_id) SELECT id FROM public.crawl_jobs WHERE id = OLD.crawl_job_id;
    RETURN NULL;
END
$$
"""
_MARK_BY_IMAGES = """
CREATE FUNCTION pixcrawler.mark_jobs_of_images() RETURNS trigger {for_others} AS $$
BEGIN
    INSERT INTO pixcrawler.recounts (crawl_job_id)
    SELECT id FROM public.crawl_jobs WHERE id IN (SELECT crawl_job_id FROM deleted);
    RETURN NULL;
END
$$
"""
_MARK_ALL = """
CREATE FUNCTION pixcrawler.mark_all_jobs() RETURNS trigger {for_others} AS $$
BEGIN
    INSERT INTO pixcrawler.recounts (crawl_job_id) SELECT id FROM public.crawl_jobs;
    RETURN NULL;
END
$$
"""
_MARK_TRIGGERS = (
    """
    CREATE TRIGGER pixcrawler_deleted AFTER DELETE ON public.validation_jobs FOR EACH ROW
    WHEN (OLD.status = 'completed') EXECUTE FUNCTION pixcrawler.mark_job_of_validation()
    """,
    """
    CREATE TRIGGER pixcrawler_status AFTER UPDATE OF status ON public.validation_jobs FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status AND 'completed' IN (OLD.status, NEW.status))
    EXECUTE FUNCTION pixcrawler.mark_job_of_validation()
    """,
    """
    CREATE TRIGGER pixcrawler_deleted AFTER DELETE ON public.images REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.mark_jobs_of_images()
    """,
    """
    CREATE TRIGGER pixcrawler_truncated AFTER TRUNCATE ON public.validation_jobs
    FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.mark_all_jobs()
    """,
    """
    CREATE TRIGGER pixcrawler_truncated AFTER TRUNCATE ON public.images
    FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.mark_all_jobs()
    """,
)

_REQUEST_CRAWL = """
CREATE FUNCTION pixcrawler.request_crawl(job_id integer, options jsonb DEFAULT '{{}}') RETURNS boolean
{for_others} AS $$
DECLARE
    given jsonb := CASE WHEN jsonb_typeof(options) <> 'null' THEN options ELSE '{{}}' END;
BEGIN
    PERFORM FROM public.crawl_jobs WHERE id = job_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', MESSAGE = 'there is no crawl job ' || job_id;
    END IF;
    IF EXISTS (SELECT FROM pixcrawler.chunks WHERE crawl_job_id = job_id)
        OR EXISTS (SELECT FROM public.crawl_jobs WHERE id = job_id AND status IN ('running', 'completed')) THEN
        RETURN false;
    END IF;
    INSERT INTO pixcrawler.crawl_plans AS plan (crawl_job_id, options, as_given) VALUES (job_id, given, true)
    ON CONFLICT (crawl_job_id) DO UPDATE SET options = excluded.options, as_given = true
    WHERE excluded.options <> '{{}}';
    RETURN true;
END
$$
"""
_REQUEST = """
CREATE FUNCTION pixcrawler.request_{kind}(job_id integer) RETURNS boolean {for_others} AS $$
BEGIN
    PERFORM FROM public.{kind}_jobs WHERE id = job_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', MESSAGE = 'there is no {kind} job ' || job_id;
    END IF;
    IF EXISTS (SELECT FROM pixcrawler.chunks WHERE {kind}_job_id = job_id)
        OR EXISTS (SELECT FROM public.{kind}_jobs WHERE id = job_id AND status IN ('running', 'completed')) THEN
        RETURN false;
    END IF;
    INSERT INTO pixcrawler.{kind}_plans ({kind}_job_id) VALUES (job_id) ON CONFLICT DO NOTHING;
    RETURN true;
END
$$
"""
_REQUESTS = ("request_crawl(integer, jsonb)", "request_validation(integer)", "request_export(integer)")


def upgrade() -> None:
    op.create_table(
        "recounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("crawl_job_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recounts")),
        schema="pixcrawler",
    )
    op.create_table(
        "broker",
        sa.Column("id", sa.SmallInteger(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("identity", sa.Text(), nullable=True),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_broker_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker")),
        schema="pixcrawler",
    )
    op.execute("INSERT INTO pixcrawler.broker DEFAULT VALUES")
    op.add_column(
        "crawl_plans",
        sa.Column("as_given", sa.Boolean(), server_default="false", nullable=False),
        schema="pixcrawler",
    )
    op.add_column(
        "export_plans", sa.Column("cleaned_at", sa.DateTime(timezone=True), nullable=True), schema="pixcrawler"
    )
    for function in (_COUNT, _MARK_BY_VALIDATION, _MARK_BY_IMAGES, _MARK_ALL, _REQUEST_CRAWL):
        op.execute(function.format(for_others=_FOR_OTHERS))
    for kind in ("validation", "export"):
        op.execute(_REQUEST.format(kind=kind, for_others=_FOR_OTHERS))
    for request in _REQUESTS:
        op.execute(f"REVOKE ALL ON FUNCTION pixcrawler.{request} FROM PUBLIC")
    op.execute(_COUNT_TRIGGER)
    for trigger in _MARK_TRIGGERS:
        op.execute(trigger)


def downgrade() -> None:
    for table in ("images", "validation_jobs"):
        op.execute(f"DROP TRIGGER pixcrawler_truncated ON public.{table}")
        op.execute(f"DROP TRIGGER pixcrawler_deleted ON public.{table}")
    op.execute("DROP TRIGGER pixcrawler_status ON public.validation_jobs")
    op.drop_table("recounts", schema="pixcrawler")
    op.drop_table("broker", schema="pixcrawler")
    op.drop_column("export_plans", "cleaned_at", schema="pixcrawler")
    op.drop_column("crawl_plans", "as_given", schema="pixcrawler")
    for function in ("count_valid_images", "mark_job_of_validation", "mark_jobs_of_images", "mark_all_jobs"):
        op.execute(f"DROP FUNCTION pixcrawler.{function}()")
    for request in _REQUESTS:
        op.execute(f"DROP FUNCTION pixcrawler.{request}")

"""The facts of images follow them by a trigger for each DELETE, in place of a foreign key for each row.

The key was checked for each image of a crawl, by a lookup that locks the row of the image: a fifth of what inserting
both takes. Facts are inserted in the transaction that inserts their image, or that has locked it. Code of revision 0019
runs on it.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_KEY = "fk_image_facts_image_id_images"
#: What functions for other roles have in common: the rights of the owner, and no name that a caller can redirect.
_FOR_OTHERS = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"

# Planned each time: a plan for a million images would read all facts when one image is deleted.
_DELETE = """
CREATE FUNCTION pixcrawler.delete_facts_of_images() RETURNS trigger {for_others} AS $$
BEGIN
    EXECUTE 'DELETE FROM pixcrawler.image_facts WHERE image_id IN (SELECT id FROM deleted)';
    RETURN NULL;
END
$$
"""
_DELETE_ALL = """
CREATE FUNCTION pixcrawler.delete_all_facts() RETURNS trigger {for_others} AS $$
BEGIN
    DELETE FROM pixcrawler.image_facts;
    RETURN NULL;
END
$$
"""
_TRIGGERS = (
    """
    CREATE TRIGGER pixcrawler_facts_deleted AFTER DELETE ON public.images REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.delete_facts_of_images()
    """,
    """
    CREATE TRIGGER pixcrawler_facts_truncated AFTER TRUNCATE ON public.images
    FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.delete_all_facts()
    """,
)


def upgrade() -> None:
    for function in (_DELETE, _DELETE_ALL):
        op.execute(function.format(for_others=_FOR_OTHERS))
    for trigger in _TRIGGERS:
        op.execute(trigger)
    op.drop_constraint(_KEY, "image_facts", schema="pixcrawler")


def downgrade() -> None:
    for name in ("deleted", "truncated"):
        op.execute(f"DROP TRIGGER pixcrawler_facts_{name} ON public.images")
    for function in ("delete_facts_of_images", "delete_all_facts"):
        op.execute(f"DROP FUNCTION pixcrawler.{function}()")
    op.execute("DELETE FROM pixcrawler.image_facts WHERE NOT EXISTS (SELECT FROM public.images WHERE id = image_id)")
    op.create_foreign_key(
        _KEY, "image_facts", "images", ["image_id"], ["id"], source_schema="pixcrawler", ondelete="CASCADE"
    )

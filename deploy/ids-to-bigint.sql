-- Optional, for an installation that comes near 2,147,483,647 images: ids of images as bigint. It rewrites the tables of images
-- and of what refers to them, under an exclusive lock (about a minute for 10 million images): stop the workers before, and
-- start them afterwards. As the owner of the tables:
--
--   psql --single-transaction --file deploy/ids-to-bigint.sql "$DATABASE_URL"
--
-- `pixcrawler db report` shows how many ids are left. The documented schema has integers, and so do the models: `alembic check`
-- and `alembic revision --autogenerate` leave these columns as they are.

SET LOCAL lock_timeout = '10s';

ALTER SEQUENCE public.images_id_seq AS bigint;
ALTER TABLE public.images ALTER COLUMN id TYPE bigint;
ALTER TABLE pixcrawler.image_facts ALTER COLUMN image_id TYPE bigint;
ALTER TABLE pixcrawler.verdicts ALTER COLUMN image_id TYPE bigint, ALTER COLUMN keeper_id TYPE bigint;
ALTER TABLE pixcrawler.export_items ALTER COLUMN image_id TYPE bigint;

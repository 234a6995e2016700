-- Four roles with no more rights than they need. Run it in the database of PixCrawler, as a superuser or the administrator
-- of a hosting provider, before the first `pixcrawler db upgrade`, and once more after it:
--
--   psql --single-transaction --file deploy/roles.sql "$DATABASE_URL_OF_THE_ADMINISTRATOR"
--
--   pixcrawler_owner    runs `pixcrawler db upgrade`, owns the tables
--   pixcrawler_worker   workers: rows of jobs and images, and the private schema
--   pixcrawler_api      an API: inserts and cancels jobs, reads all results
--   pixcrawler_monitor  dashboards: reads jobs and chunks, no users, no images, no links
--
-- Each may log in, but has no password until you set one: ALTER ROLE pixcrawler_worker PASSWORD '...' (in psql:
-- \password pixcrawler_worker). It can be run again at any time.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pixcrawler_owner', 'pixcrawler_worker', 'pixcrawler_api', 'pixcrawler_monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE 'CREATE ROLE ' || role || ' LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE';
        END IF;
        EXECUTE 'GRANT CONNECT ON DATABASE ' || quote_ident(current_database()) || ' TO ' || role;
    END LOOP;
    EXECUTE 'GRANT CREATE, TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' TO pixcrawler_owner';
    -- Findings of comparisons are copied into a temporary table first.
    EXECUTE 'GRANT TEMPORARY ON DATABASE ' || quote_ident(current_database()) || ' TO pixcrawler_worker';
END
$$;

-- Before PostgreSQL 15 everyone may create tables in `public`.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO pixcrawler_owner;
GRANT USAGE ON SCHEMA public TO pixcrawler_worker, pixcrawler_api, pixcrawler_monitor;

DO $$
DECLARE
    hidden record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'pixcrawler' AND tablename = 'chunks') THEN
        RAISE NOTICE 'there are no tables yet: run pixcrawler db upgrade as pixcrawler_owner, then this file once more';
        RETURN;
    END IF;

    -- Workers. Their locks of rows in `profiles` and `projects` need the right to update a column there.
    GRANT USAGE ON SCHEMA pixcrawler TO pixcrawler_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pixcrawler TO pixcrawler_worker;
    REVOKE INSERT, UPDATE, DELETE ON pixcrawler.alembic_version FROM pixcrawler_worker;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA pixcrawler TO pixcrawler_worker;
    GRANT SELECT, UPDATE (updated_at) ON public.profiles, public.projects TO pixcrawler_worker;
    GRANT SELECT, UPDATE ON public.crawl_jobs, public.validation_jobs, public.export_jobs TO pixcrawler_worker;
    GRANT SELECT, INSERT, UPDATE ON public.images TO pixcrawler_worker;
    GRANT SELECT, INSERT ON public.activity_logs TO pixcrawler_worker;
    GRANT USAGE ON SEQUENCE public.images_id_seq, public.activity_logs_id_seq TO pixcrawler_worker;

    -- An API. The counters, times and errors of a job are the workers'.
    GRANT USAGE ON SCHEMA pixcrawler TO pixcrawler_api;
    GRANT EXECUTE ON FUNCTION pixcrawler.request_crawl(integer, jsonb), pixcrawler.request_validation(integer),
        pixcrawler.request_export(integer) TO pixcrawler_api;
    GRANT SELECT ON public.profiles, public.projects, public.crawl_jobs, public.images, public.activity_logs,
        public.validation_jobs, public.export_jobs TO pixcrawler_api;
    GRANT INSERT, UPDATE, DELETE ON public.profiles, public.projects TO pixcrawler_api;
    GRANT INSERT (project_id, name, keywords, max_images, status), UPDATE (name, keywords, max_images, status)
        ON public.crawl_jobs TO pixcrawler_api;
    GRANT INSERT (crawl_job_id, name, validation_rules, status), UPDATE (name, validation_rules, status)
        ON public.validation_jobs TO pixcrawler_api;
    GRANT INSERT (crawl_job_id, user_id, name, format, export_options, status),
        UPDATE (name, format, export_options, status) ON public.export_jobs TO pixcrawler_api;
    GRANT DELETE ON public.crawl_jobs, public.validation_jobs, public.export_jobs, public.images TO pixcrawler_api;
    GRANT INSERT ON public.activity_logs TO pixcrawler_api;
    GRANT USAGE ON SEQUENCE public.projects_id_seq, public.crawl_jobs_id_seq, public.validation_jobs_id_seq,
        public.export_jobs_id_seq, public.activity_logs_id_seq TO pixcrawler_api;

    -- Monitoring.
    GRANT USAGE ON SCHEMA pixcrawler TO pixcrawler_monitor;
    GRANT SELECT ON public.crawl_jobs, public.validation_jobs TO pixcrawler_monitor;
    GRANT SELECT (id, crawl_job_id, status, progress, format, total_images, exported_images, file_size, started_at,
        completed_at, expires_at, created_at, updated_at) ON public.export_jobs TO pixcrawler_monitor;
    GRANT SELECT ON pixcrawler.chunks, pixcrawler.broker, pixcrawler.recounts, pixcrawler.alembic_version
        TO pixcrawler_monitor;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, pixcrawler TO pixcrawler_monitor;

    -- Where row level security is on (Supabase), a policy for those whose rights above decide.
    FOR hidden IN SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relrowsecurity AND relname IN ('profiles', 'projects',
            'crawl_jobs', 'images', 'activity_logs', 'validation_jobs', 'export_jobs') LOOP
        IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'public' AND tablename = hidden.relname
            AND policyname = 'pixcrawler_roles') THEN
            EXECUTE 'CREATE POLICY pixcrawler_roles ON public.' || hidden.relname
                || ' TO pixcrawler_worker, pixcrawler_api, pixcrawler_monitor USING (true) WITH CHECK (true)';
        END IF;
    END LOOP;
END
$$;

-- What later migrations add to the private schema.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pixcrawler') THEN
        ALTER DEFAULT PRIVILEGES FOR ROLE pixcrawler_owner IN SCHEMA pixcrawler
            GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO pixcrawler_worker;
        ALTER DEFAULT PRIVILEGES FOR ROLE pixcrawler_owner IN SCHEMA pixcrawler
            GRANT USAGE ON SEQUENCES TO pixcrawler_worker;
    END IF;
END
$$;

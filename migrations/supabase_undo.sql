-- Removes what supabase.sql has set up, and restores the rights that it has taken away.
DO $supabase$
DECLARE
    one record;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_class WHERE relname = 'supabase_undo' AND relnamespace = 'pixcrawler'::regnamespace
    ) THEN
        RETURN;
    END IF;
    FOR one IN SELECT polrelid::regclass AS relation, polname FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
        WHERE relnamespace = 'public'::regnamespace
        AND polname IN ('pixcrawler_read', 'pixcrawler_add', 'pixcrawler_edit', 'pixcrawler_services') LOOP
        EXECUTE 'DROP POLICY ' || one.polname || ' ON ' || one.relation;
    END LOOP;
    -- With the triggers that call them: that on auth.users can only be dropped this way by who does not own the table.
    DROP FUNCTION IF EXISTS pixcrawler.check_edit_of_user() CASCADE;
    DROP FUNCTION IF EXISTS pixcrawler.handle_new_user() CASCADE;
    DROP FUNCTION IF EXISTS pixcrawler.save_profile(jsonb);
    REVOKE ALL ON TABLE public.profiles, public.projects, public.crawl_jobs, public.images, public.activity_logs,
        public.validation_jobs, public.export_jobs FROM authenticated;
    REVOKE ALL ON SEQUENCE public.projects_id_seq, public.crawl_jobs_id_seq, public.validation_jobs_id_seq,
        public.export_jobs_id_seq FROM authenticated;
    FOR one IN SELECT statement FROM pixcrawler.supabase_undo ORDER BY position LOOP
        EXECUTE one.statement;
    END LOOP;
    DROP TABLE pixcrawler.supabase_undo;
END
$supabase$

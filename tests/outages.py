"""A database that says "not now" where and for as long as a test wants.

A trigger on a table raises an error with the SQLSTATE that a row of a table names, until the time in that row: the
database itself ends the outage, and nothing else has to be locked for it.
"""

from sqlalchemy import text

from pixcrawler_worker.db.session import Sessions

_INSTALL = """
CREATE TABLE IF NOT EXISTS public.outages (event text PRIMARY KEY, state text, slow float8, until timestamptz);
-- A restricted role may not read the table.
CREATE OR REPLACE FUNCTION public.outage() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found public.outages;
BEGIN
    SELECT * INTO found FROM public.outages WHERE event = TG_ARGV[0] AND until > clock_timestamp();
    IF found.slow IS NOT NULL THEN
        PERFORM pg_sleep(found.slow);
    ELSIF found.state IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = found.state, MESSAGE = 'not now';
    END IF;
    IF TG_LEVEL = 'ROW' THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$;
"""

_CHUNK = "BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW WHEN"
#: When the triggers fire, by the name of the event.
_EVENTS = {
    "image": "BEFORE INSERT ON public.images FOR EACH STATEMENT",
    "verdict": "BEFORE INSERT ON pixcrawler.verdicts FOR EACH STATEMENT",
    "claim": f"{_CHUNK} (OLD.state = 'queued' AND NEW.state = 'running')",
    "finish": f"{_CHUNK} (NEW.state = 'completed')",
    "lease": f"{_CHUNK} (OLD.state = 'running' AND NEW.state <> 'completed')",
}


_TRIGGER = """
    DO $$ BEGIN
        CREATE TRIGGER outage_{event} {on} EXECUTE FUNCTION public.outage('{event}');
    EXCEPTION WHEN duplicate_object THEN
    END $$
"""


def begin(
    sessions: Sessions, event: str, state: str | None = None, *, slow: float | None = None, seconds: float
) -> None:
    """Let an event raise an error, or take longer, for some time."""
    with sessions.begin() as session:
        session.execute(text(_INSTALL))
        # One statement, because PostgreSQL 13 cannot replace a trigger.
        session.execute(text(_TRIGGER.format(event=event, on=_EVENTS[event])))
        session.execute(
            text(
                "INSERT INTO public.outages"
                " VALUES (:event, :state, :slow, clock_timestamp() + :seconds * interval '1 s') ON CONFLICT (event)"
                " DO UPDATE SET state = EXCLUDED.state, slow = EXCLUDED.slow, until = EXCLUDED.until"
            ),
            {"event": event, "state": state, "slow": slow, "seconds": seconds},
        )


def end(sessions: Sessions) -> None:
    """End all outages."""
    with sessions.begin() as session:
        session.execute(text(_INSTALL))
        session.execute(text("DELETE FROM public.outages"))

"""A sweep of a database with many chunks that have ended, and `jobs show` for their job.

    python benchmarks/sweep.py [--chunks 1000000] [--runs 20]

A sweep, as every worker does one about every ten seconds, has nothing to do here but to find that out: with a job that
has ended, and with the same job running and its last chunks queued far ahead. The floor is a transaction that reads
nothing.
"""

import sys
from collections.abc import Callable

import frame
from frame import Run, Spread, Topic
from sqlalchemy import text
from stage import service

from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db import crawl_history, crawls
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.jobs import sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

#: Chunks of the running job that are queued and not due.
_OPEN = 100
#: How long `jobs show` may take, from its start to its end.
_MAX_SHOW_SECONDS = 1.0
_INSERT = """
INSERT INTO pixcrawler.chunks (crawl_job_id, seq, payload, state, attempt, max_attempts, task_id, result, available_at)
SELECT :job, g, jsonb_build_object('source', 'urls', 'query', '', 'label', 'bench', 'page', g, 'page_size', 100,
        'quota', 100, 'only', NULL), CASE WHEN g < :ended THEN 'completed' ELSE 'queued' END, 1, 5, gen_random_uuid(),
    CASE WHEN g < :ended THEN jsonb_build_object('offered', 90, 'stored', 80, 'downloaded', 85, 'more', true,
        'reasons', jsonb_build_object('not_found', 10), 'left', jsonb_build_array()) END,
    clock_timestamp() + interval '6 hours'
FROM generate_series(:first, :total - 1) AS g
"""
_RUNNING = """
UPDATE crawl_jobs SET status = 'running', started_at = now(), completed_at = NULL, total_chunks = :total,
    completed_chunks = :ended WHERE id = :job
"""
_ENDED = "UPDATE crawl_jobs SET status = 'completed', completed_at = now(), total_chunks = :total WHERE id = :job"


def fill(opened: Runtime, chunks: int) -> int:
    """Insert a job with so many ended chunks, and a few that are queued; return its id."""
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({}), 10))
    with opened.sessions.begin() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(text(_INSERT), {"job": job_id, "ended": chunks, "total": chunks, "first": 0})
        # As the end of the last round does it.
        crawls.next_round(session, job_id)
        crawl_history.sum_up(session, job_id, round_=1)
        session.execute(text(_INSERT), {"job": job_id, "ended": chunks, "total": chunks + _OPEN, "first": chunks})
        session.execute(text(_RUNNING), {"job": job_id, "ended": chunks, "total": chunks + _OPEN})
    # As autovacuum does it before long.
    with opened.sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
    return job_id


def sweep(opened: Runtime) -> Callable[[], Run]:
    """Return a contender: one sweep that finds nothing to do."""

    def run() -> Run:
        with frame.own_cpu() as usage:
            swept = sweeper.sweep(opened, JOB_KINDS.values())
        assert swept.idle, swept
        assert not swept.failed, swept
        return usage.run(1)

    return run


def show(job_id: int) -> Callable[[], Run]:
    """Return a contender: the command that shows a job, from its start to its end."""

    def run() -> Run:
        return frame.run_command(
            [sys.executable, "-c", "from pixcrawler_worker.cli.start import main; main()", "jobs", "show", str(job_id)],
            1,
        )

    return run


def nothing(opened: Runtime) -> Callable[[], Run]:
    """Return a contender: a transaction that reads nothing."""

    def run() -> Run:
        with frame.own_cpu() as usage:
            transact(opened.sessions, lambda session: session.execute(text("SELECT 1")))
        return usage.run(1)

    return run


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=20)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    args = parser.parse_args()
    with service() as opened:
        job_id = fill(opened, args.chunks)
        running = {"a transaction": nothing(opened), "sweep": sweep(opened)}
        sweep(opened)()
        runs = frame.alternate(running, args.runs)
        runs["sweep, job running"] = runs.pop("sweep")
        shown = frame.alternate({"jobs show": show(job_id)}, 3)["jobs show"]
        with opened.sessions.begin() as session:
            # Without its open chunks: an ended job with some is one that the sweep completes.
            session.execute(text("DELETE FROM pixcrawler.chunks WHERE state = 'queued'"))
            session.execute(text(_ENDED), {"job": job_id, "total": args.chunks})
        runs["sweep, job ended"] = frame.alternate(running, args.runs)["sweep"]
    spreads = {name: Spread.of(1000 * run.seconds for run in of) for name, of in [*runs.items(), ("jobs show", shown)]}
    notes = [f"Milliseconds: {', '.join(f'{name} {spread}' for name, spread in spreads.items())}."]
    frame.publish(Topic("sweep", "sweeps", "a transaction", "Sweeps"), runs, write=args.write, notes=notes)
    assert max(run.seconds for run in shown) < _MAX_SHOW_SECONDS, "jobs show takes too long, or the machine is busy"


if __name__ == "__main__":
    main()

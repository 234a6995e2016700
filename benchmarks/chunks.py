"""Chunks with nothing to do: how many end in a second, and the CPU of each, as a ratio to bare transactions.

    python benchmarks/chunks.py [--chunks 4000] [--processes 8] [--runs 3]

The floor has as many processes as the worker. Each of them makes two durable transactions per chunk and no more: one
sets a row running and counts it in the row of its job, the other one sets it completed and counts that, with psycopg
and prepared statements. Ours is a worker with Celery and Redis, and one crawl job whose chunks are pages beyond the end
of its URL list. Both use the same server, alternate, and the ratio of each pair is printed.

Then the delay from the message that starts a job to the first claim of a chunk, and the CPU of the worker when idle.
"""

import multiprocessing
import time

import frame
import psycopg
from frame import Run, Spread, Topic
from sqlalchemy import text
from stage import ended, service, worker

from pixcrawler_worker import client
from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.runtime import Runtime

_FLOOR = (
    "CREATE TABLE floor_jobs (id int PRIMARY KEY, active int NOT NULL, completed int NOT NULL)",
    "CREATE TABLE floor_chunks (id bigint PRIMARY KEY, state text NOT NULL, fence bigint)",
    "CREATE SEQUENCE floor_fence",
)
_CLAIM = (
    """UPDATE floor_chunks SET state = 'running', fence = nextval('floor_fence') WHERE id = %s AND state = 'queued'
        RETURNING fence""",
    "UPDATE floor_jobs SET active = active + 1 WHERE id = 1",
)
_FINISH = (
    "UPDATE floor_chunks SET state = 'completed' WHERE id = %s AND state = 'running' AND fence = %s",
    "UPDATE floor_jobs SET active = active - 1, completed = completed + 1 WHERE id = 1",
)


def run_floor(url: str, ids: list[int]) -> None:
    """Make two transactions per chunk."""
    with psycopg.connect(url, prepare_threshold=0) as connection:
        for chunk_id in ids:
            (fence,) = connection.execute(_CLAIM[0], [chunk_id]).fetchone() or (None,)
            connection.execute(_CLAIM[1])
            connection.commit()
            connection.execute(_FINISH[0], [chunk_id, fence])
            connection.execute(_FINISH[1])
            connection.commit()


def time_floor(url: str, chunks: int, processes: int) -> Run:
    """Run the floor in so many processes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE floor_jobs, floor_chunks")
        connection.execute("INSERT INTO floor_jobs VALUES (1, 0, 0)")
        connection.execute("INSERT INTO floor_chunks SELECT g, 'queued' FROM generate_series(1, %s) AS g", [chunks])
    parts = [list(range(1 + part, chunks + 1, processes)) for part in range(processes)]
    loops = [multiprocessing.Process(target=run_floor, args=(url, part)) for part in parts]
    with frame.own_cpu() as usage:
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
    assert not any(loop.exitcode for loop in loops)
    return usage.run(chunks)


def start_empty(opened: Runtime, chunks: int) -> int:
    """Start a job that has so many chunks with nothing to do; return its id."""
    job_id = new_jobs.create_crawl(opened, CrawlArguments(("bench",), options.parse({}), 1))
    ref = CRAWL_JOBS.ref(job_id)
    page = CrawlChunk(source="urls", query="", label="bench", page=10_000, page_size=100, quota=1).to_json()

    def plan(session: Session) -> None:
        jobs.lock(session, ref)
        jobs.begin(session, ref)
        jobs.add_chunks(session, ref, [page] * chunks)
        # No round follows.
        session.execute(text("UPDATE pixcrawler.crawl_plans SET round = 1000 WHERE crawl_job_id = :id"), {"id": job_id})

    transact(opened.sessions, plan)
    transact(
        opened.sessions,
        lambda session: session.execute(
            text("UPDATE crawl_jobs SET started_at = clock_timestamp() WHERE id = :id"), {"id": job_id}
        ),
    )
    # A sweep sends the first messages.
    client.send(Task.SWEEP)
    return job_id


def time_empty(opened: Runtime, main_pid: int, chunks: int) -> Run:
    """Run a job of empty chunks, from the first message to its end by the clock of the database."""
    with frame.measured(main_pid) as usage:
        job, seconds = ended(opened, CrawlView, start_empty(opened, chunks))
    assert (job.completed_chunks, job.failed_chunks, job.active_chunks) == (chunks, 0, 0), job
    return Run(chunks, seconds, usage.cpu)


def delays(opened: Runtime, count: int) -> list[float]:
    """Return the seconds from messages that start jobs to the first claims of their chunks, on an idle worker."""
    found = []
    with opened.sessions.begin() as session:
        session.execute(text("CREATE TABLE claimed (job_id int, at timestamptz DEFAULT clock_timestamp())"))
        session.execute(
            text(
                "CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO public.claimed (job_id) VALUES (NEW.crawl_job_id); RETURN NULL; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER claims AFTER UPDATE ON pixcrawler.chunks FOR EACH ROW"
                " WHEN (NEW.state = 'running' AND OLD.state = 'queued') EXECUTE FUNCTION note_claim()"
            )
        )
    for _ in range(count):
        arguments = CrawlArguments(("bench",), options.parse({"urls": ["http://127.0.0.1:1/a.jpg"]}), 1)
        job_id = new_jobs.create_crawl(opened, arguments)
        with opened.sessions.begin() as session:
            sent = session.scalar(text("SELECT clock_timestamp()"))
        client.start_crawl(job_id)
        ended(opened, CrawlView, job_id)
        with opened.sessions.begin() as session:
            first = session.scalar(text("SELECT min(at) FROM claimed WHERE job_id = :id"), {"id": job_id})
        assert sent is not None
        assert first is not None
        found.append((first - sent).total_seconds())
    with opened.sessions.begin() as session:
        session.execute(text("DROP TRIGGER claims ON pixcrawler.chunks"))
    return found


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--starts", type=int, default=20, help="jobs that are started on the idle worker")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds for which the worker is idle")
    args = parser.parse_args()

    with service() as opened, worker(args.processes) as main_pid:
        url = opened.settings.require_database()
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in _FLOOR:
                connection.execute(statement)
        time_empty(opened, main_pid, 400)  # warms up processes and connections
        base = "two transactions"
        contenders = {
            base: lambda: time_floor(url, args.chunks, args.processes),
            "worker": lambda: time_empty(opened, main_pid, args.chunks),
        }
        runs = frame.alternate(contenders, args.runs)
        started = Spread.of(1000 * seconds for seconds in delays(opened, args.starts))
        with frame.measured(main_pid) as usage:
            time.sleep(args.idle)
        notes = [
            f"From the message that starts a job to the first claim of a chunk, on the idle worker: {started} ms.",
            f"The idle worker with its {args.processes} processes: {100 * usage.cpu / usage.seconds:.2f} % of a core.",
        ]
    topic = Topic("chunks", "chunks", base, "Chunks with nothing to do", ["celery", "psycopg", "sqlalchemy"])
    frame.publish(topic, runs, write=args.write, notes=notes)


if __name__ == "__main__":
    main()

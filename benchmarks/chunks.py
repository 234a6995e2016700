"""Chunks with nothing to do: how many end in a second, and the CPU of each, as a ratio to bare transactions.

    python benchmarks/chunks.py [--chunks 4000] [--processes 8] [--runs 3]

The floor has as many processes as the worker. Each of them makes two durable transactions per chunk and no more: one
sets a row running and counts it in the row of its job, the other one sets it completed and counts that, with psycopg
and prepared statements. Ours is a worker with Celery and Redis, and one crawl job whose chunks are pages beyond the end
of its URL list. Both use the same server, alternate, and the ratio of each pair is printed.

Then the delay from the message that starts a job to the first claim of a chunk, and the CPU of the worker when idle.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import psycopg
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
from pixcrawler_worker.domain.crawl_planning import CrawlChunk
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
#: Clock ticks in a second of CPU.
_TICKS = os.sysconf("SC_CLK_TCK")


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


def time_floor(url: str, chunks: int, processes: int) -> float:
    """Return the seconds that the floor takes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE floor_jobs, floor_chunks")
        connection.execute("INSERT INTO floor_jobs VALUES (1, 0, 0)")
        connection.execute("INSERT INTO floor_chunks SELECT g, 'queued' FROM generate_series(1, %s) AS g", [chunks])
    parts = [list(range(1 + part, chunks + 1, processes)) for part in range(processes)]
    loops = [multiprocessing.Process(target=run_floor, args=(url, part)) for part in parts]
    begun = time.perf_counter()
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert not any(loop.exitcode for loop in loops)
    return time.perf_counter() - begun


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


def time_empty(opened: Runtime, chunks: int) -> float:
    """Return the seconds from the first message to the end of the job, by the clock of the database."""
    job, seconds = ended(opened, CrawlView, start_empty(opened, chunks))
    assert (job.completed_chunks, job.failed_chunks, job.active_chunks) == (chunks, 0, 0), job
    return seconds


def cpu(main: int) -> float:
    """Return the seconds of CPU that a process and its children have used."""
    total = 0.0
    for pid in (str(main), *Path(f"/proc/{main}/task/{main}/children").read_text().split()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


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


def spread(values: list[float], form: str) -> str:
    """Return the median of values, with the smallest and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--starts", type=int, default=20, help="jobs that are started on the idle worker")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds for which the worker is idle")
    args = parser.parse_args()

    with service() as opened, worker(args.processes) as main_pid:
        url = opened.settings.require_database()
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in _FLOOR:
                connection.execute(statement)
            server = connection.info.parameter_status("server_version")
        print(
            f"{args.chunks} chunks, {args.processes} processes, {os.cpu_count()} cores; PostgreSQL {server},"
            f" Python {platform.python_version()}, psycopg {psycopg.__version__}, Celery {version('celery')}"
        )
        time_empty(opened, 400)  # warms up processes and connections
        rates, floors, ratios, costs = [], [], [], []
        for _ in range(args.runs):
            floors.append(args.chunks / time_floor(url, args.chunks, args.processes))
            before = cpu(main_pid)
            rates.append(args.chunks / time_empty(opened, args.chunks))
            costs.append((cpu(main_pid) - before) / args.chunks * 1000)
            ratios.append(rates[-1] / floors[-1])
            print(
                f"floor {floors[-1]:6.0f} chunks/s   worker {rates[-1]:6.0f} chunks/s   ratio {ratios[-1]:.2f}"
                f"   CPU of the worker {costs[-1]:.2f} ms per chunk"
            )
        print(f"floor     {spread(floors, '.0f')} chunks/s")
        print(f"worker    {spread(rates, '.0f')} chunks/s")
        print(f"ratio     {spread(ratios, '.2f')}")
        print(f"CPU       {spread(costs, '.2f')} ms per chunk in the worker")
        if args.starts:
            found = [1000 * seconds for seconds in delays(opened, args.starts)]
            print(f"start     {spread(found, '.1f')} ms from the message to the first claim")
        if args.idle:
            before, begun = cpu(main_pid), time.perf_counter()
            time.sleep(args.idle)
            share = (cpu(main_pid) - before) / (time.perf_counter() - begun)
            print(f"idle      {100 * share:.2f} % of a core")


if __name__ == "__main__":
    main()

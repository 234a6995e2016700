"""Crawl jobs with real workers: exact counters, regardless of what the hosts do."""

import itertools
import json
import subprocess
import sys
from collections import Counter

import psycopg
import pytest
from acceptance_stack import PIXCRAWLER, Stack, send, url_list, wait_for_server

from pixcrawler_worker.domain.messages import Task


def test_exactly_the_valid_ones_of_2000_urls_become_rows(stack: Stack) -> None:
    listed, reasons = url_list(stack.host, good=1900, broken=100)
    job_id = stack.make_job(max_images=2000)
    with stack.worker(PIXCRAWLER_MAX_IMAGE_BYTES="1000000"), stack.watched(job_id):
        send(stack, Task.CRAWL_START, job_id, {"urls": listed})
        stack.wait(job_id, seconds=120)
    job = stack.job(job_id)
    assert {row[0] for row in stack.rows(job_id)} == {url for url in listed if "/good/" in url}
    assert stack.reasons(job_id) == reasons
    assert (job["status"], job["progress"]) == ("completed", 100)
    assert (job["valid_images"], job["total_images"]) == (1900, 2000)
    assert (job["active_chunks"], job["failed_chunks"], job["completed_chunks"]) == (0, 0, job["total_chunks"])
    assert stack.files(job_id) == stack.named_files(job_id)
    assert len(stack.snapshots) > 50, "too few snapshots to be meaningful"


def test_a_job_stops_at_max_images_and_fills_up_from_later_pages(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=300, broken=0)
    listed = [url.replace("/good/", "/fault/404/") if n < 80 else url for n, url in enumerate(listed)]
    job_id = stack.make_job(max_images=150)
    with stack.worker(), stack.watched(job_id):
        send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 20})
        stack.wait(job_id)
    job = stack.job(job_id)
    assert (job["status"], job["valid_images"]) == ("completed", 150)
    assert stack.query("SELECT round FROM pixcrawler.crawl_plans WHERE crawl_job_id = %s", job_id)[0][0] > 1


def test_messages_that_come_five_times_change_nothing(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=120, broken=10)
    options = {"urls": listed, "chunk_size": 10}
    once, often = stack.make_job(max_images=130), stack.make_job(max_images=130)
    with stack.worker(concurrency=3):
        send(stack, Task.CRAWL_START, once, options)
        stack.wait(once)
        with stack.watched(often):
            send(stack, Task.CRAWL_START, often, options, times=2)
            stack.wait(often, until=lambda row: row["total_chunks"] > 0)
            for _ in range(5):
                for (chunk_id,) in stack.query("SELECT id FROM pixcrawler.chunks WHERE crawl_job_id = %s", often):
                    send(stack, Task.CRAWL_CHUNK, chunk_id)
            stack.wait(often)
            send(stack, Task.CRAWL_START, often, options)
    assert stack.rows(often) == stack.rows(once)
    assert len(stack.rows(once)) == 120
    counted = ("total_images", "valid_images", "downloaded_images", "total_chunks", "completed_chunks")
    assert [stack.job(often)[name] for name in counted] == [stack.job(once)[name] for name in counted]


def test_no_transaction_is_open_while_a_chunk_fetches(stack: Stack, slow_host: str) -> None:
    listed, _ = url_list(slow_host, good=100, broken=0)
    job_id = stack.make_job(max_images=100)
    oldest = []
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="4"):
        send(stack, Task.CRAWL_START, job_id, {"urls": listed})
        stack.wait(job_id, until=lambda row: row["active_chunks"] > 0)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            while stack.job(job_id)["active_chunks"]:
                (seconds,) = connection.execute(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8"
                    " FROM pg_stat_activity WHERE application_name = 'pixcrawler' AND datname = current_database()"
                ).fetchone() or (0.0,)
                oldest.append(seconds)
        stack.wait(job_id)
    assert len(oldest) > 20
    assert max(oldest) < 1.0, "the chunk took several seconds, and so did a transaction"


#: What an API does with nothing but the lines that `up` prints, and waits for.
API = """
import asyncio, os, sys, time
import psycopg
import pytest
from celery import Celery
from pixcrawler_worker import client

database = psycopg.connect(os.environ["PIXCRAWLER_DATABASE_URL"], autocommit=True)
row = '{"keywords": ["cat"], "options": {"urls": ["%s"]}}' % sys.argv[1]
(project,) = database.execute("SELECT id FROM projects LIMIT 1").fetchone()
insert = "INSERT INTO crawl_jobs (project_id, name, keywords) VALUES (%s, 'api', %s) RETURNING id"
ids = [database.execute(insert, [project, row]).fetchone()[0] for _ in range(3)]
client.start_crawl(ids[0])
asyncio.run(client.astart_crawl(ids[1]))
Celery(broker=os.environ["PIXCRAWLER_BROKER_URL"]).send_task("pixcrawler.crawl.start", args=[ids[2]], queue="crawl")
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    found = [status for (status,) in database.execute("SELECT status FROM crawl_jobs WHERE id = ANY(%s)", [ids])]
    if not {"pending", "running"} & set(found):
        break
    time.sleep(0.1)
print(*found)
"""


@pytest.mark.slow
def test_the_command_line_finds_what_up_runs_and_watches_a_job_to_its_end(stack: Stack) -> None:
    listed, reasons = url_list(stack.host, good=60, broken=8)
    (stack.data_dir / "list.txt").write_text("# images\n\n" + "\n".join([*listed, "junk"]))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PIXCRAWLER, *words], env=env, cwd=stack.data_dir, capture_output=True, text=True, check=False
        )

    env = {name: value for name, value in stack.env.items() if not name.endswith(("DATABASE_URL", "BROKER_URL"))}
    up = subprocess.Popen(
        [PIXCRAWLER, "up", "--concurrency", "2", "--tcp"],
        env=env,
        cwd=stack.data_dir,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        message = list(itertools.takewhile(lambda line: not line.startswith("Stop with Ctrl-C"), up.stdout))
        (flower,) = (line.split()[1] for line in message if line.startswith("Flower"))
        wait_for_server(f"{flower}healthcheck")
        watched = run("crawl", "cat", "--urls", "list.txt", "--watch")
        assert watched.returncode == 0, watched.stderr
        assert "60 of 69 images" in watched.stdout
        shown = json.loads(run("jobs", "show", "1", "--json").stdout)
        assert shown["reasons"] == reasons + Counter({"bad_url": 1})
        doctor = run("doctor")
        assert (doctor.returncode, doctor.stdout.count("FAIL")) == (0, 0), doctor.stdout
        lines = [line.strip() for line in message if line.startswith("export ")]
        done = subprocess.run(
            ["/bin/sh", "-c", "\n".join(["set -e", *lines, 'exec "$0" -c "$1" "$2"']), sys.executable, API, listed[0]],
            env=env,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "completed completed completed\n"), done.stderr
        unknown = run("jobs", "show", "77")
        assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    finally:
        up.terminate()
        up.communicate(timeout=60)

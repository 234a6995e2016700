"""Watching a job until it ends."""

import itertools
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import ledger
import pytest
from calls import call
from factories import make_job, start_job

from pixcrawler_worker.cli import job_watch
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError


def view(sessions: Sessions, job_id: int) -> CrawlView:
    with sessions.begin() as session:
        found = job_views.job(session, CrawlView, job_id)
    assert found is not None
    return found


def ending(sessions: Sessions, job_id: int, statement: str) -> Callable[[], None]:
    """Return a check for `watch` that ends the job before its second look at it."""
    looks = itertools.count()

    def check() -> None:
        if next(looks) == 1:
            ledger.execute(sessions, statement, id=job_id)

    return check


def test_watching_without_a_terminal_writes_plain_lines(sessions: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    ref = start_job(sessions, chunks=2, max_images=123_456_789)
    check = ending(
        sessions,
        ref.id,
        "UPDATE crawl_jobs SET status = 'completed', progress = 100, completed_at = started_at + interval '12345.6 s',"
        " valid_images = 123456780, total_chunks = 1234567, completed_chunks = 1234560, failed_chunks = 7"
        " WHERE id = :id",
    )
    job = job_watch.watch(sessions, CrawlView, ref.id, check=check)
    assert job.status == "completed"
    written = capsys.readouterr()
    # However long it is: a line is a line to whatever reads it.
    assert written.out.splitlines() == [
        f"job {ref.id} running: 0 of 123456789 images, 0 of 2 chunks",
        f"job {ref.id} completed in 12345.6 s: 123456780 of 123456789 images, 1234560 of 1234567 chunks, 7 failed",
    ]
    assert written.err == ""


def test_deleting_a_watched_job_is_an_error(sessions: Sessions) -> None:
    ref = start_job(sessions)
    check = ending(sessions, ref.id, "DELETE FROM crawl_jobs WHERE id = :id")
    with pytest.raises(PermanentError, match=f"there is no crawl job {ref.id}"):
        job_watch.watch(sessions, CrawlView, ref.id, check=check)


def test_a_job_that_has_ended_is_shown_at_once(sessions: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = make_job(sessions, status="cancelled")
    assert job_watch.watch(sessions, CrawlView, job_id).status == "cancelled"
    assert capsys.readouterr().out == f"job {job_id} cancelled: 0 of 100 images, 0 of 0 chunks\n"


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_interrupting_leaves_the_job_running_and_prints_how_to_resume(
    sessions: Sessions, env: Mapping[str, str], *, terminal: bool
) -> None:
    job_id = start_job(sessions, chunks=2, max_images=7).id
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "pixcrawler_worker.cli.main", "jobs", "watch", str(job_id)]
    watching = subprocess.Popen(
        command, env=os.environ | env | {"TERM": "xterm"}, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    try:
        shown = os.read(ours, 65536).decode()
        time.sleep(0.2)
        watching.send_signal(signal.SIGINT)
        _, output = watching.communicate(timeout=20)
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert ("\x1b[" in shown) == terminal
    assert watching.returncode == 130
    assert output == (
        f"\njob {job_id} keeps running. Resume watching: pixcrawler jobs watch {job_id}. "
        f"Cancel the job: pixcrawler jobs cancel {job_id}\n"
    )
    assert view(sessions, job_id).status == "running"


@pytest.mark.parametrize("command", ["validate", "export"])
def test_interrupting_a_command_that_watches_prints_how_to_watch_and_to_cancel(
    sessions: Sessions, env: Mapping[str, str], command: str
) -> None:
    crawl = make_job(sessions, status="completed")
    words = [sys.executable, "-m", "pixcrawler_worker.cli.main", command, str(crawl), "--watch"]
    watching = subprocess.Popen(
        words, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert watching.stdout is not None
        job_id = int(watching.stdout.readline())
        assert "pending" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, output = watching.communicate(timeout=20)
    finally:
        watching.kill()
        watching.wait()
    argument = f"{'validation' if command == 'validate' else 'export'}:{job_id}"
    assert watching.returncode == 130
    title = argument.replace(":", " ")
    assert output == (
        f"\n{title} keeps running. Resume watching: pixcrawler jobs watch {argument}. "
        f"Cancel the job: pixcrawler jobs cancel {argument}\n"
    )
    for hint in output.split("pixcrawler ")[1:]:
        suggested = hint.split(".")[0].split()
        if "cancel" in suggested:
            assert call(env, *suggested).stdout.startswith(f"{title} failed")

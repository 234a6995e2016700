"""Children that die, or are slow, while the connection to the broker is closed: real processes, with their own hub."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("pool_of_children.py")


def run(pool: str, what: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT, pool, what], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_death_of_children_leaves_no_descriptor_behind_and_no_child_unwatched() -> None:
    assert run("ours", "killed") == {"returned": [0, 1, 2, 3], "strays": [], "unwatched": []}


def test_the_pool_is_still_needed_because_celery_reads_from_the_pipes_of_dead_children() -> None:
    assert run("celery", "killed")["strays"]


def test_a_pool_that_stops_reads_the_result_of_a_task_that_was_on_its_way_to_a_child() -> None:
    assert run("ours", "stopped") == {"known": 1, "returned": [0, 1], "soon": True}


def test_the_pool_is_still_needed_because_celery_forgets_tasks_that_are_on_their_way_to_a_child() -> None:
    assert run("celery", "stopped") == {"known": 0}


def test_a_child_is_forked_when_no_thread_has_locked_what_it_needs() -> None:
    assert run("ours", "locked") == {"returned": [7], "went_on": True}


def test_the_pool_is_still_needed_because_children_of_celery_hang_in_what_a_thread_had_locked() -> None:
    assert run("celery", "locked") == {"returned": [], "went_on": True}


def test_children_know_when_their_pool_runs_and_when_it_stops_and_do_not_collect_what_is_imported() -> None:
    """What the main process notes after the fork is seen in the child."""
    script = """
import gc, os
from celery.concurrency.prefork import TaskPool
from pixcrawler_worker.broker import pool
TaskPool.on_start = TaskPool.on_close = lambda self: None  # no children of its own
made = pool.ChildPool.__new__(pool.ChildPool)
seen = [pool.is_running(), pool.is_stopping()]
made.on_start()
go, back = os.pipe(), os.pipe()
if os.fork() == 0:
    found = [pool.is_running(), pool.is_stopping()]
    os.read(go[0], 1)
    os.write(back[1], repr([*found, pool.is_running(), pool.is_stopping()]).encode())
    os._exit(0)
made.on_close()
os.write(go[1], b"x")
print(seen, os.read(back[0], 100).decode(), gc.get_freeze_count() > 10_000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    # The child may look before or after the pool stops.
    assert done.stdout.strip() in {
        "[False, False] [True, False, False, True] True",
        "[False, False] [False, True, False, True] True",
    }, done.stderr

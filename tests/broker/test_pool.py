"""Children that die while the connection to the broker breaks: real processes, in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("pool_of_children.py")


def run(pool: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT, pool], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_death_of_children_leaves_no_descriptor_behind_and_no_child_unwatched() -> None:
    assert run("ours") == {"returned": [0, 1, 2, 3], "strays": [], "unwatched": []}


def test_the_pool_is_still_needed_because_celery_reads_from_the_pipes_of_dead_children() -> None:
    assert run("celery")["strays"]

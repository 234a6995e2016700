"""`pixcrawler health` as a container runs it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pixcrawler_worker.broker import liveness

PIXCRAWLER = str(Path(sys.executable).with_name("pixcrawler"))


def probe(*words: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    given = os.environ | env
    return subprocess.run([PIXCRAWLER, "health", *words], env=given, capture_output=True, text=True, check=False)


def test_a_probe_has_an_exit_code_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "health"
    env = {"PIXCRAWLER_HEALTH_FILE": str(path)}
    missing = probe(env=env)
    assert (missing.returncode, missing.stderr) == (1, "")
    assert missing.stdout.startswith(f"{path} cannot be read: No such file or directory")
    liveness.write(path, "celery@a", not_ready="the broker does not answer")
    alive = probe(env=env)
    assert (alive.returncode, alive.stdout) == (
        0,
        "celery@a is alive, but not ready: the broker does not answer\n",
    )
    assert probe("--ready", env=env).returncode == 1
    assert probe("--ready", "--file", str(path), env={}).returncode == 1
    liveness.write(path, "celery@a", not_ready="")
    assert probe("--ready", env=env).returncode == 0
    # A file that is not named is a wrong call, and no worker that has to be restarted.
    for unset in ({}, {"PIXCRAWLER_HEALTH_FILE": ""}):
        assert probe(env=unset).returncode == 2


def test_a_probe_imports_nothing_that_takes_long() -> None:
    script = (
        "import sys; from pixcrawler_worker.cli import main, health;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"celery", "kombu", "redis", "pydantic", "sqlalchemy", "psycopg", "structlog"}

"""What commands import: those that show jobs need the database alone."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from factories import start_job

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.displays import DISPLAYS
from pixcrawler_worker.registry import JOB_KINDS

#: What a worker needs, and takes longer to import than the rest of a command.
HEAVY = frozenset(
    {
        *(
            "aiohttp",
            "alembic",
            "celery",
            "httpx",
            "kombu",
            "numpy",
            "obstore",
            "opentelemetry",
            "PIL",
            "pyarrow",
            "redis",
        ),
        *("yarl", "pixcrawler_worker.runtime", "pixcrawler_worker.registry", "pixcrawler_worker.jobs.submission"),
    }
)
_PROGRAM = """
import sys
from pixcrawler_worker.cli.main import pixcrawler
pixcrawler(sys.argv[1:], standalone_mode=False)
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def imported(env: Mapping[str, str], *words: str) -> set[str]:
    """The heavy modules that a command imports."""
    command = [sys.executable, "-c", _PROGRAM, *words]
    done = subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, text=True)
    assert done.stdout
    names = done.stderr.splitlines()
    assert "click" in names
    return {*names, *(name.partition(".")[0] for name in names)} & HEAVY


@pytest.mark.parametrize(
    "words",
    ["--help", "jobs --help", "jobs list --help", "jobs show --help", "jobs failures --help", "doctor --help"],
)
def test_help_imports_nothing_that_a_worker_needs(words: str) -> None:
    assert imported({}, *words.split()) == set()


@pytest.mark.parametrize(
    "words", ["list", "show {job}", "show --json {job}", "show validation:{other}", "failures {job}"]
)
def test_showing_jobs_imports_the_database_alone(env: Mapping[str, str], sessions: Sessions, words: str) -> None:
    job = start_job(sessions).id
    other = start_job(sessions, kind=DISPLAYS["validation"].view.table).id
    without_broker = {name: value for name, value in env.items() if name != "PIXCRAWLER_BROKER_URL"}
    assert imported(without_broker, "jobs", *words.format(job=job, other=other).split()) == set()


def test_the_quarantine_is_read_where_there_is_a_broker(env: Mapping[str, str], sessions: Sessions) -> None:
    found = imported(env, "jobs", "show", str(start_job(sessions).id))
    assert "redis" in found
    assert not found & {"aiohttp", "kombu", "numpy", "obstore", "PIL", "pixcrawler_worker.runtime"}


def test_every_kind_of_job_is_shown_as_it_says() -> None:
    assert list(DISPLAYS.items()) == [(name, kind.display) for name, kind in JOB_KINDS.items()]

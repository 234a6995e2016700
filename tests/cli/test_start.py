"""A Ctrl-C while the command is imported: the process ends without a word."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

#: Interrupts this process at the import of a module.
INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

interrupted = sys.argv[1]
sys.meta_path.insert(0, Interrupting())
from pixcrawler_worker.cli.start import main
sys.argv = ["pixcrawler", "jobs", "show", "--help"]
main()
"""


@pytest.mark.parametrize(
    "module",
    [
        "pixcrawler_worker.cli.main",
        "click",
        "pixcrawler_worker.errors",
        "pixcrawler_worker.cli.jobs",
        "rich.table",
        "sqlalchemy.orm",
        "pixcrawler_worker.cli.job_status",
    ],
)
def test_an_interrupt_of_an_import_ends_the_process_without_a_word(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_without_an_interrupt_the_command_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "none"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: pixcrawler jobs show" in done.stdout


def test_the_script_begins_there() -> None:
    (point,) = entry_points(group="console_scripts", name="pixcrawler")
    assert point.value == "pixcrawler_worker.cli.start:main"

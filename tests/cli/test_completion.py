"""`pixcrawler completion`, and what shells complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from calls import call
from click.shell_completion import ShellComplete

from pixcrawler_worker.cli.main import pixcrawler


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_for_the_common_shells(shell: str) -> None:
    script = call({}, "completion", shell).stdout
    assert f"_PIXCRAWLER_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        ([], "s", {"settings", "sources", "storage"}),
        (["build", "cat", "--source"], "g", {"gallery", "gbif"}),
        (["build", "cat", "--license"], "cc-by-n", {"cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"}),
        (["crawl", "cat", "--min-"], "--min-", {"--min-width", "--min-height"}),
    ],
)
def test_names_are_completed(words: list[str], incomplete: str, offered: set[str]) -> None:
    completing = ShellComplete(pixcrawler, {}, "pixcrawler", "_PIXCRAWLER_COMPLETE")
    assert {item.value for item in completing.get_completions(words, incomplete)} == offered


def test_the_program_completes_when_a_shell_calls_it() -> None:
    environment = {"_PIXCRAWLER_COMPLETE": "bash_complete", "COMP_WORDS": "pixcrawler bui", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("pixcrawler")
    done = subprocess.run([program], env=os.environ | environment, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,build\n"

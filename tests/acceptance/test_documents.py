"""The commands of the documents that are marked as runnable, in the order of each document, as a reader types them.

A block that begins with `sh run` is run by a shell that stops at the first error; one with `sh background` runs until
the documents end. They are run in a directory like a clone, with an empty home, and with providers and hosts on
loopback. `tests/cli/test_documented_commands.py` parses all other commands.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import documents
import pytest
from acceptance_stack import PIXCRAWLER, Stack
from documents import Block
from fakes import providers
from fakes.providers import Catalog

RUNNABLE = [path for path in documents.DOCUMENTS if any(block.mark for block in documents.blocks(path))]
#: What `pixcrawler up` may take until its worker can be reached.
_READY_SECONDS = 60.0


@pytest.fixture
def reader(host: str, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The environment of a reader who has installed the package, with a list of URLs."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "cats.txt").write_text("".join(f"{host}/good/cat-{number}.jpg\n" for number in range(12)))
    with providers.serving(Catalog.of("red panda", "snow leopard", "cat", count=40)) as server:
        yield {
            "HOME": str(home),
            "PATH": f"{Path(PIXCRAWLER).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "COLUMNS": "80",
            "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8",
            **server.settings,
        }


@contextlib.contextmanager
def running(block: Block, env: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Run a block until the end of the document; it has begun when another command reaches the services."""
    log = folder / "background.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-ec", re.sub(r"(.+)\n*$", r"exec \1", block.text)],
            cwd=folder,
            env=env,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not any(text in log.read_text(errors="replace").lower() for text in ("postgres", " ready.")):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        yield
        # As a reader stops the services of development, and an operator a worker.
        process.send_signal(signal.SIGTERM if "celery" in block.text else signal.SIGINT)
        assert process.wait(timeout=60) in {0, 130}, log.read_text(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(block: Block, env: Mapping[str, str], folder: Path) -> str:
    """Run a block, and return what it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{block.path.name}: {block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def prepared(tmp_path: Path) -> Path:
    """Return a directory like a clone after `make .venv/ready`, with a list of URLs in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "cats.txt").rename(folder / "cats.txt")
    (folder / ".venv").symlink_to(Path(PIXCRAWLER).parents[1])
    return folder


def typed(names: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
    """Run the blocks of documents; what an earlier one has had already, or has started, is not repeated."""
    before: set[str] = set()
    with contextlib.ExitStack() as until_the_end:
        for block in [block for name in names for block in documents.blocks(documents.ROOT / name)]:
            lines = [line.split("#")[0].strip() for line in block.text.splitlines()]
            new = [line for line in lines if line not in before] if block.mark else []
            before |= set(new)
            if block.mark == "background" and new:
                until_the_end.enter_context(running(block, env, folder))
            elif new:
                assert "Traceback" not in run(replace(block, text="\n".join(new)), env, folder)


def test_the_commands_for_researchers_can_be_typed(reader: Mapping[str, str], tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    typed(["docs/quickstart-researcher.md"], reader, folder)
    assert (folder / "pandas" / "report.html").is_file()


def test_the_commands_for_developers_can_be_typed(reader: Mapping[str, str], tmp_path: Path) -> None:
    typed(["README.md", "docs/quickstart-backend.md"], reader, prepared(tmp_path))


def test_the_commands_for_operators_can_be_typed(reader: Mapping[str, str], stack: Stack, tmp_path: Path) -> None:
    services = {name: value for name, value in stack.env.items() if name.startswith("PIXCRAWLER_")}
    typed(["docs/quickstart-operator.md"], {**reader, **services}, prepared(tmp_path))


def test_all_marked_documents_are_run() -> None:
    quickstarts = {f"quickstart-{role}.md" for role in ("researcher", "backend", "operator")}
    assert {path.name for path in RUNNABLE} == {"README.md", *quickstarts}
    marks = {block.mark for path in documents.DOCUMENTS for block in documents.blocks(path)}
    assert marks == {"", "run", "background"}

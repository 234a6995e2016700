"""The commands of the documents that are marked as runnable, in the order of each document, as a reader types them.

A block that begins with `sh run` is run by a shell that stops at the first error; one with `sh background` runs until
the document ends. Each document is run in a directory of its own, with an empty home, and with providers and hosts on
loopback.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import documents
import pytest
from acceptance_stack import PIXCRAWLER
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
            ["bash", "-ec", f"exec {block.text}"], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
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


def test_all_quickstarts_are_run() -> None:
    assert {path.name for path in RUNNABLE} >= {
        f"quickstart-{role}.md" for role in ("researcher", "backend", "operator")
    }
    marks = {block.mark for path in documents.DOCUMENTS for block in documents.blocks(path)}
    assert marks <= {"", "run", "background"}


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_the_commands_of_a_document_can_be_typed_in_their_order(
    path: Path, reader: Mapping[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "cats.txt").rename(folder / "cats.txt")
    found = [block for block in documents.blocks(path) if block.mark]
    env = dict(reader)
    if not any("pixcrawler up" in block.text or "build" in block.text for block in found):
        # The reader of an operator's page has services.
        stack = request.getfixturevalue("stack")
        env |= {name: value for name, value in stack.env.items() if name.startswith("PIXCRAWLER_")}
    with contextlib.ExitStack() as until_the_end:
        for block in found:
            if block.mark == "background":
                until_the_end.enter_context(running(block, env, folder))
            else:
                printed = run(block, env, folder)
                assert "Traceback" not in printed

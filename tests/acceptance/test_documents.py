"""Three readers, each with the documents for them: a researcher, a developer of an API, and an operator.

They type the commands that are marked as runnable, in the order of the documents, in a terminal of 80 columns: each has
to end as it should, to fit into the terminal, and to suggest nothing that does not work when it is typed. A block
that begins with `sh background` runs until the documents end. The directory is like a clone, the home is empty, and
providers and hosts are on loopback. `tests/cli/test_documented_commands.py` parses all other commands.
"""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

COLUMNS = 80
#: Nothing listens there: what a retry tries again.
REFUSED = "http://127.0.0.1:1/cat.jpg"
#: Sequences that move the cursor, and set colors.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: A path or a URL.
_PATH = re.compile(r"\S*/\S+")
#: Commands whose output is data for other programs.
_DATA = re.compile(r"^head |--json|jobs failures")
#: Commands in messages, as far as they can be typed.
_SUGGESTED = re.compile(r"pixcrawler (?:[a-z]+ )?[a-z]+(?: --?[a-z]+)*(?: [a-z]+:\d+| \d+)(?= |[.,;:`)]|$)")
#: They run until Ctrl-C.
_FOR_LATER = {"pixcrawler up"}


@pytest.fixture
def reader(host: str, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The environment of a reader who has installed the package, with a list of URLs."""
    home = tmp_path / "home"
    home.mkdir()
    urls = [*(f"{host}/good/cat-{number}.jpg" for number in range(12)), f"{host}/fault/404/1.jpg", REFUSED]
    (tmp_path / "cats.txt").write_text("".join(f"{url}\n" for url in urls))
    with providers.serving(Catalog.of("red panda", "snow leopard", "cat", count=40)) as server:
        yield {
            "HOME": str(home),
            "PATH": f"{Path(PIXCRAWLER).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
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


@dataclass
class Terminal:
    """A terminal of 80 columns, in which each command has the directory and the environment of the ones before.

    Attributes:
        env: of its shell.
        folder: of its shell.
        suggested: commands in what the others have printed.
    """

    env: Mapping[str, str]
    folder: Path
    suggested: dict[str, None] = field(default_factory=dict)
    _before: list[str] = field(default_factory=list)
    _typed: set[str] = field(default_factory=set)

    def types(self, command: str) -> None:
        """Run a command; assert that it succeeds, and what it prints."""
        if command.startswith((". ", "export ", "cd ")):
            self._before.append(command)
        self._typed.add(command)
        code, text = self._run("\n".join([*self._before, command]))
        assert code == 0, f"{command}: {code}\n{text}"
        assert "Traceback" not in text, f"{command}\n{text}"
        lines = [line.rstrip() for line in re.split("[\r\n]+", _ESCAPES.sub("", text))]
        if not _DATA.search(command):
            # A path or a URL is not divided, because it is there to be copied. What is around it has to fit.
            wide = [line for line in lines if len(line) > COLUMNS and len(_PATH.sub("", line)) > COLUMNS]
            assert wide == [], command
            self.suggested |= dict.fromkeys(_SUGGESTED.findall(" ".join(lines)))

    def types_what_was_suggested(self) -> None:
        """Run the commands that others have printed."""
        while new := [one for one in self.suggested if one not in {*self._typed, *_FOR_LATER}]:
            for command in new:
                self.types(command)

    def _run(self, script: str) -> tuple[int, str]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        written = bytearray()
        # At its end Linux raises EIO.
        with contextlib.suppress(OSError):
            while block := os.read(master, 1 << 16):
                written += block
        os.close(master)
        return process.wait(timeout=150), written.decode(errors="replace")


def prepared(tmp_path: Path) -> Path:
    """Return a directory like a clone after `make .venv/ready`, with a list of URLs in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "cats.txt").rename(folder / "cats.txt")
    (folder / ".venv").symlink_to(Path(PIXCRAWLER).parents[1])
    return folder


def typed(names: Sequence[str], env: Mapping[str, str], folder: Path) -> Terminal:
    """Type the commands of documents; what an earlier one has had already, or has started, is not repeated."""
    terminal, before = Terminal(env, folder), set[str]()
    with contextlib.ExitStack() as until_the_end:
        for block in [block for name in names for block in documents.blocks(documents.ROOT / name) if block.mark]:
            lines = [line.split("#")[0].strip() for line in block.text.splitlines()]
            new = [line for line in lines if line and line not in before]
            before |= set(new)
            if block.mark == "background" and new:
                until_the_end.enter_context(running(block, env, folder))
            elif block.mark == "run":
                for line in new:
                    terminal.types(line)
        terminal.types_what_was_suggested()
    return terminal


def test_a_researcher_types_the_commands(reader: Mapping[str, str], tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    typed(["docs/quickstart-researcher.md"], reader, folder)
    assert (folder / "pandas" / "report.html").is_file()


@pytest.mark.parametrize(
    "names",
    # The second one is most of the first again.
    [["README.md"], pytest.param(["README.md", "docs/quickstart-backend.md"], marks=pytest.mark.slow)],
    ids=["README", "both"],
)
def test_a_developer_types_the_commands(reader: Mapping[str, str], tmp_path: Path, names: list[str]) -> None:
    terminal = typed(names, reader, prepared(tmp_path))
    assert {"pixcrawler jobs failures 1", "pixcrawler jobs retry 1", "pixcrawler jobs watch 1"} <= set(
        terminal.suggested
    )


def test_an_operator_types_the_commands(reader: Mapping[str, str], stack: Stack, tmp_path: Path) -> None:
    services = {name: value for name, value in stack.of_owner().env.items() if name.startswith("PIXCRAWLER_")}
    typed(["docs/quickstart-operator.md"], {**reader, **services}, prepared(tmp_path))


def test_all_marked_documents_are_run() -> None:
    quickstarts = {f"quickstart-{role}.md" for role in ("researcher", "backend", "operator")}
    assert {path.name for path in RUNNABLE} == {"README.md", *quickstarts}
    marks = {block.mark for path in documents.DOCUMENTS for block in documents.blocks(path)}
    assert marks == {"", "run", "background"}

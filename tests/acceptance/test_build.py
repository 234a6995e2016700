"""`pixcrawler build`: from keywords to a dataset, on its own services, and interrupted at every stage."""

import contextlib
import csv
import hashlib
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from acceptance_stack import PIXCRAWLER, url_list
from fakes import providers
from fakes.providers import Catalog

PANDA, LEOPARD = "red panda", "snow leopard"
LOOPBACK = {"PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def bare() -> dict[str, str]:
    """An environment without any configuration."""
    foreign = ("PIXCRAWLER_", "DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | LOOPBACK


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_keywords_get_half_of_the_images_each_with_credit(bare: dict[str, str], tmp_path: Path) -> None:
    words = [PIXCRAWLER, "build", PANDA, LEOPARD, "--max-images", "200", "--out", "pandas"]
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=150, repeated=0.3, dead=0.2)) as server:
        built = subprocess.run(
            words, env=bare | server.settings, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
    assert built.returncode == 0, built.stderr
    assert "200 of 200 images" in built.stdout
    table = rows(tmp_path / "pandas")
    assert Counter(row["label"] for row in table) == {PANDA: 100, LEOPARD: 100}
    assert all(row["license"] and row["author"] and row["attribution"] and row["page_url"] for row in table)
    assert len({row["sha256"] for row in table}) == 200
    assert all((tmp_path / "pandas" / row["file_name"]).is_file() for row in table)
    assert (tmp_path / "pandas" / "report.html").is_file()


#: Makes its standard input its controlling terminal, so that a Ctrl-C typed there is a signal for it.
IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
CTRL_C = b"\x03"
#: Seconds that a command may take to leave after the first Ctrl-C, and after the second one.
FIRST, SECOND = 10, 3


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a command did that was interrupted in a terminal."""

    code: int
    seconds: float
    text: str

    def commands(self) -> list[list[str]]:
        """The commands that it said, without the name of the program."""
        found = re.findall(r"pixcrawler ((?:build|jobs|demo)[^.\r\n]*)", self.text)
        return [shlex.split(command) for command in found]


def interrupt(
    words: list[str],
    env: dict[str, str],
    folder: Path,
    when: Callable[[str], bool],
    *,
    presses: int = 1,
) -> Interrupted:
    """Run a command in a terminal, and type Ctrl-C as soon as a condition holds. The time counts from the last one."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, PIXCRAWLER, *words]
    process = subprocess.Popen(
        command,
        env=env | {"TERM": "xterm"},
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written = bytearray()

    def read() -> None:
        # The terminal is closed when the last process with it has ended.
        with contextlib.suppress(OSError):
            while block := os.read(ours, 65_536):
                written.extend(block)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 90
        while not when(written.decode(errors="replace")):
            assert process.poll() is None, written.decode(errors="replace")
            assert time.monotonic() < deadline, f"the condition was never reached: {words}"
            time.sleep(0.01)
        for number in range(presses):
            time.sleep(0.3 if number else 0)
            os.write(ours, CTRL_C)
        pressed = time.monotonic()
        code = process.wait(timeout=120)
        seconds = time.monotonic() - pressed
        left = processes(folder)
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=10)
        os.close(ours)
    text = written.decode(errors="replace")
    assert left == [], "nothing is left running"
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return Interrupted(code, seconds, text)


def processes(folder: Path) -> list[str]:
    """Command lines of running processes that use this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            here = (process / "cwd").resolve()
            if str(folder) in line or here.is_relative_to(folder):
                found.append(line)
    return found


@pytest.fixture
def slow_build(bare: dict[str, str], slow_host: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a build that takes a while, with its list."""
    listed, _ = url_list(slow_host, good=60, broken=0)
    (tmp_path / "list.txt").write_text("\n".join(listed))
    return bare | {"PIXCRAWLER_FETCH_CONCURRENCY": "4", "PIXCRAWLER_CHUNK_SIZE": "10"}


def moments(folder: Path) -> dict[str, Callable[[str], bool]]:
    """Conditions for the moments of a build."""
    data = folder / ".pixcrawler"
    return {
        "it creates PostgreSQL": lambda _: (data / "postgres").is_dir(),
        "the worker starts": lambda _: (data / "worker.log").exists(),
        "images are downloaded": lambda _: any((data / "storage" / "crawl_jobs").glob("*/*/*.jpg")),
        "images are validated": lambda text: "validation 1 " in text,
        "the dataset is written": lambda text: "export 1 " in text,
        "everything stops": lambda text: "report: " in text,
    }


BUILD = ["build", "cat", "--urls", "list.txt", "--out", "cats", "--layout", "coco"]


@pytest.mark.slow
def test_an_interrupted_build_leaves_in_order_and_what_it_says_works_when_typed(
    slow_build: dict[str, str], tmp_path: Path
) -> None:
    when = moments(tmp_path)
    # Before there is a job, by an impatient user.
    early = interrupt(BUILD, slow_build, tmp_path, when["it creates PostgreSQL"], presses=2)
    assert early.code == 130
    assert "no job" in early.text or "before a job" in early.text
    assert early.seconds < SECOND * 3, "on a busy machine"
    # While images are downloaded: the message has everything that is needed.
    first = interrupt(BUILD, slow_build, tmp_path, when["images are downloaded"])
    assert (first.code, first.seconds < FIRST * 2) == (130, True)
    resume, cancel = first.commands()
    job = resume[-1]
    assert (resume, cancel) == (["build", "--job", job], ["jobs", "cancel", job])
    # Another build leaves it alone, and says so.
    other = ["build", "dog", "--urls", "list.txt", "--max-images", "1", "--out", "dog"]
    built = run(other, slow_build, tmp_path)
    assert built.returncode == 0, built.stderr
    (note,) = [line for line in built.stderr.splitlines() if "left alone" in line]
    assert f"job {job} (cat)" in note
    assert f"Resume it: pixcrawler build --job {job}. Cancel it: pixcrawler jobs cancel {job}" in note
    shown = json.loads(run(["jobs", "show", job, "--json"], slow_build, tmp_path).stdout)
    assert (shown["status"], shown["active_chunks"]) == ("running", 0)
    # It is interrupted again, three times at once, and resumed to the end with its layout and its directory.
    again = interrupt(resume, slow_build, tmp_path, lambda text: f"job {job} running" in text, presses=3)
    assert again.code == 130
    assert again.seconds < SECOND * 3, "on a busy machine"
    assert not (tmp_path / "cats").exists()
    done = run(resume, slow_build | {"PIXCRAWLER_FETCH_CONCURRENCY": "64"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cats" / "annotations").glob("instances_*.json")), "the layout of the first call"
    assert len(rows(tmp_path / "cats")) == 60
    # A job that has ended is not cancelled; the folder's data is found without a service that runs.
    ended = run(["jobs", "cancel", job], slow_build, tmp_path)
    assert (ended.returncode, "there is nothing to cancel" in ended.stderr) == (1, True)
    assert processes(tmp_path) == []


@pytest.mark.scale
@pytest.mark.timeout(600)
@pytest.mark.parametrize("presses", [1, 2, 3])
@pytest.mark.parametrize("moment", list(moments(Path())))
def test_it_can_be_interrupted_at_every_stage_and_resumed_to_the_same_dataset(
    slow_build: dict[str, str], tmp_path: Path, moment: str, presses: int
) -> None:
    left = interrupt(BUILD, slow_build, tmp_path, moments(tmp_path)[moment], presses=presses)
    assert left.code == 130
    assert left.seconds < (FIRST if presses == 1 else SECOND), left.text
    commands = left.commands()
    if not commands:
        assert moment in {"it creates PostgreSQL", "the worker starts", "everything stops"}
        return
    for words in commands[::-1]:
        # Cancelled first, and resumed for all that.
        assert run(words, slow_build, tmp_path).returncode == 0
        assert processes(tmp_path) == []
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "list.txt").write_text((tmp_path / "list.txt").read_text())
    assert run(BUILD, slow_build, undisturbed).returncode == 0
    resumed, made = contents(tmp_path / "cats"), contents(undisturbed / "cats")
    assert resumed.keys() == made.keys()
    assert {name: resumed[name] for name in made if resumed[name] != made[name]} == {}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a dataset by their paths, without the times of downloads and jobs. The checksums must be theirs.

    A build that is resumed when it was validated already is validated again, and its report has the number of that.
    """
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    listed = {line[66:]: line[:64] for line in files.pop("SHA256SUMS").decode().splitlines()}
    written = {"SHA256SUMS", "report.html", "quality.html", "failed.jsonl"}
    assert listed == {name: hashlib.sha256(body).hexdigest() for name, body in files.items() if name not in written}
    odd = re.compile(rb"\d{4}-\d\d-\d\d[T ][\d:]{5,8}\S*|validation \d+ ")
    return {name: odd.sub(b"", content) for name, content in files.items()}


def run(words: list[str], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [PIXCRAWLER, *words], env=env, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )

"""What commands print on a terminal of 80 columns."""

import os
import pty
import struct
import subprocess
import sys
from collections.abc import Mapping
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import ledger
import pytest
from doubles import drive, start
from fakes.hosts import HostileServer, serving

from pixcrawler_worker.runtime import Runtime

PIXCRAWLER = str(Path(sys.executable).with_name("pixcrawler"))


def shown(env: Mapping[str, str], *words: str) -> list[str]:
    """Return the lines that a command prints on a terminal of 80 columns."""
    outside, inside = pty.openpty()
    ioctl(inside, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [PIXCRAWLER, *words], env={**os.environ, **env, "TERM": "dumb"}, stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    received = b""
    try:
        while block := os.read(outside, 65536):
            received += block
    except OSError:  # all of it was read, and the command has ended
        pass
    assert process.wait(timeout=60) == 0, received
    os.close(outside)
    return received.decode().replace("\r", "").splitlines()


@pytest.fixture
def job(runtime: Runtime) -> int:
    """A job with every kind of row in its table: long names, several reasons."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    with serving() as host:
        assert isinstance(host, HostileServer)
        paths = ("/good/a.jpg", "/good/a.jpg", "/fault/404/a", "/fault/html", "/fault/500/a")
        ref, messages = start(runtime, [host.url(path) for path in paths], job={"name": "w" * 100, "max_images": 50})
        drive(runtime, messages)
    return ref.id


def test_tables_fit_a_terminal_of_80_columns(env: Mapping[str, str], job: int) -> None:
    for words in (("sources",), ("export", "--layouts"), ("jobs", "list"), ("jobs", "show", str(job))):
        lines = shown(env, *words)
        assert len(lines) > 1, words
        # A URL is one word, and is there to be copied.
        assert [line for line in lines if len(line) > 80 and "://" not in line] == [], words


def test_a_long_name_does_not_cut_off_the_other_columns(env: Mapping[str, str], job: int) -> None:
    heading, row = shown(env, "jobs", "list")
    assert heading.split() == ["id", "status", "progress", "images", "chunks", "name"]
    assert row.split()[:6] == [str(job), "completed", "100", "%", "1/50", "1/1"]


def test_a_rejection_is_shown_with_what_to_do(env: Mapping[str, str], job: int) -> None:
    text = " ".join(" ".join(shown(env, "jobs", "show", str(job))).split())
    assert "not_found: image not found. The image was deleted or the URL is misspelled" in text
    assert f"Run `pixcrawler jobs retry {job}`" in text


def test_a_terminal_that_says_that_it_has_no_columns_gets_lines() -> None:
    program = "from pixcrawler_worker.cli import console; print(*console.wrapped('two words', indent=0))"
    given = {**os.environ, "COLUMNS": "0", "FORCE_COLOR": "1"}
    assert subprocess.check_output([sys.executable, "-c", program], env=given, text=True) == "two words\n"

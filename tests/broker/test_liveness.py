"""The health file, and what a probe makes of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixcrawler_worker.broker import liveness


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_worker_that_writes_is_alive_and_is_ready_unless_it_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "health"
    liveness.write(path, "celery@a", not_ready="")
    assert liveness.check(path, ready=False) == (True, "celery@a is alive and ready")
    assert liveness.check(path, ready=True)[0]
    liveness.write(path, "celery@a", not_ready="the broker does not answer")
    assert liveness.check(path, ready=False) == (
        True,
        "celery@a is alive, but not ready: the broker does not answer",
    )
    assert not liveness.check(path, ready=True)[0]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ready", [False, True])
def test_a_worker_that_hangs_or_has_ended_is_not_alive(tmp_path: Path, *, ready: bool) -> None:
    path = tmp_path / "health"
    liveness.write(path, "celery@a", not_ready="", max_age=30)
    rewrite(path, written=time.monotonic() - 29)
    assert liveness.check(path, ready=ready)[0]
    rewrite(path, written=time.monotonic() - 31)
    assert liveness.check(path, ready=ready) == (
        False,
        f"celery@a hangs: it wrote {path} 31 s ago, 30 s are allowed",
    )
    # Of another start of the machine.
    rewrite(path, written=time.monotonic() + 1000)
    assert not liveness.check(path, ready=ready)[0]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    liveness.write(path, "celery@a", not_ready="")
    rewrite(path, pid=ended.pid)
    assert liveness.check(path, ready=ready) == (False, f"celery@a has ended: there is no process {ended.pid}")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"null", b"\xff", b'{"worker": 1', b"[" * 5000, b"x" * 20_000]
    + [
        json.dumps({"worker": "a", "pid": 1, "written": 1.0, "max_age": 60.0, "not_ready": ""} | change).encode()
        for change in ({"pid": 10**30}, {"pid": "1"}, {"written": None}, {"max_age": "x"}, {"more": 1})
    ],
)
def test_a_file_that_no_worker_wrote_is_no_sign_of_life(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "health"
    path.write_bytes(content)
    assert liveness.check(path, ready=False) == (False, f"{path} is not the file of a worker")


def test_a_missing_file_and_a_folder_are_no_sign_of_life(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        ok, detail = liveness.check(path, ready=False)
        assert not ok
        assert "cannot be read" in detail


def test_a_link_that_waits_in_a_folder_of_others_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "of another program"
    target.write_text("content")
    path = tmp_path / "health"
    path.symlink_to(target)
    (tmp_path / f".health.{os.getpid()}").symlink_to(target)
    liveness.write(path, "celery@a", not_ready="")
    assert target.read_text() == "content"
    assert not path.is_symlink()
    assert liveness.check(path, ready=True)[0]

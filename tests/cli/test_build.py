"""The last stage of `pixcrawler build`: writing the folder, interrupted and refused."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ledger
import pytest
from doubles import WatchedStorage, drive, good, start
from fakes import hosts
from fakes.hosts import HostileServer

from pixcrawler_worker.cli import build, console
from pixcrawler_worker.db.views import CrawlView
from pixcrawler_worker.runtime import Runtime


@pytest.fixture
def host() -> Iterator[HostileServer]:
    with hosts.serving() as server:
        yield server


@pytest.fixture
def job(runtime: Runtime, host: HostileServer) -> CrawlView:
    """A job that has ended, with twelve images."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    ref, wakes = start(runtime, good(host, "build", 12))
    drive(runtime, wakes)
    return console.require_job(runtime.sessions, ref.id)


@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "no folder"])
def test_interrupted_while_it_writes_it_leaves_what_was_there(
    runtime: Runtime, job: CrawlView, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, there: bool
) -> None:
    folder, reads = tmp_path / "cats", []

    def interrupt(key: str) -> None:
        reads.append(key)
        if len(reads) == 9:
            os.kill(os.getpid(), signal.SIGINT)

    if there:
        folder.mkdir()
    interrupting = replace(runtime, storage=WatchedStorage(runtime, get=interrupt))
    with pytest.raises(SystemExit) as ended:
        build.write(interrupting, job, folder, again="pixcrawler build --job 1")
    assert ended.value.code == 130
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())
    assert "nothing was written" in capsys.readouterr().err
    # Nothing was lost by it.
    assert len(build.write(runtime, job, folder, again="")) == 12
    assert len(list(folder.glob("*/*.jpg"))) == 12

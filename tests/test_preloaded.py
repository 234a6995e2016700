"""What forks have to share with processes that are started from nothing, and what not."""

import os
import signal
import subprocess
from pathlib import Path

import preloaded
import pytest


def test_a_command_has_its_environment_its_directory_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("")
    shown = preloaded.run(["pixcrawler", "settings"], env={"PIXCRAWLER_CHUNK_SIZE": "77"}, cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split()[-1] for line in shown.stdout.splitlines() if "CHUNK_SIZE" in line] == ["77"]
    refused = preloaded.run(["pixcrawler", "crawl", "cat", "--urls", "blank.txt"], env={}, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "contains no URLs" in refused.stderr


def test_celery_reads_the_settings_of_each_fork(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2"):
        words = ["celery", "-A", "pixcrawler_worker", "report"]
        done = preloaded.run(words, env={"PIXCRAWLER_BROKER_URL": f"redis://{host}:1/0"}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (shown,) = [line for line in done.stdout.splitlines() if line.startswith("broker_url:")]
        assert f"@{host}:1/0" in shown


def test_a_fork_leads_its_session_and_ends_by_a_signal(tmp_path: Path) -> None:
    env = os.environ | {"PIXCRAWLER_BROKER_URL": "redis://127.0.0.1:1/0"}
    with (tmp_path / "log").open("wb") as log:
        process = preloaded.start(
            ["celery", "-A", "pixcrawler_worker", "events", "--dump"], env=env, cwd=tmp_path, stdout=log, stderr=log
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        assert process.poll() is None
        assert os.getsid(process.pid) == process.pid
        process.kill()
        assert process.wait(10) == process.poll() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)

import signal
import subprocess
from pathlib import Path

import pytest

from pixcrawler_worker.embedded import processes


def test_a_process_that_still_holds_a_lock_is_stopped(tmp_path: Path) -> None:
    with processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM) as lock:
        orphan = processes.spawn(["sleep", "60"], lock=lock)
    with processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM):
        assert orphan.wait(timeout=5) == -signal.SIGTERM


def test_a_free_lock_stops_no_process_that_has_the_id_in_its_file(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "server.lock").write_text(str(other.pid))
        with (
            processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM),
            pytest.raises(subprocess.TimeoutExpired),
        ):
            other.wait(timeout=0.2)
        other.kill()

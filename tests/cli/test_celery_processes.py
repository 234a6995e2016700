"""Processes of Celery that commands run; tests/acceptance/test_build.py has what becomes of their jobs."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pixcrawler_worker.cli import celery_processes


def test_a_setpriv_that_lacks_options_is_not_used(env: Mapping[str, str], tmp_path: Path) -> None:
    # As in Alpine Linux, where all programs are one.
    busybox = tmp_path / "programs" / "busybox"
    busybox.parent.mkdir()
    busybox.write_text("#!/bin/sh\necho unrecognized option: pdeathsig >&2\nexit 1\n")
    busybox.chmod(0o755)
    busybox.with_name("setpriv").symlink_to(busybox)
    os.environ |= {**env, "PATH": f"{busybox.parent}:{os.environ['PATH']}"}
    log = tmp_path / "worker.log"
    with log.open("wb") as file, celery_processes.worker(1, log=file) as process:
        deadline = time.monotonic() + 60
        while b" ready." not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, log.read_text()

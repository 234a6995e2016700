"""`pixcrawler metrics`; what it serves during a job is in tests/acceptance/test_metrics.py."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from calls import call

from pixcrawler_worker.errors import PermanentError

PIXCRAWLER = str(Path(sys.executable).with_name("pixcrawler"))


def test_it_serves_on_loopback_until_it_is_terminated(env: Mapping[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with subprocess.Popen(
        [PIXCRAWLER, "metrics", "--port", str(port)], env=os.environ | env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert "metrics are served" in process.stderr.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
                text = response.read().decode()
            assert 'pixcrawler_jobs{kind="crawl",state="pending"}' in text
            # It is no worker, and counts nothing.
            assert "pixcrawler_chunk_attempts" not in text
            # All of 127.0.0.0/8 is this machine, so that a server on all addresses would answer at this one, too.
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_and_an_address_of_another_machine_are_an_error(env: Mapping[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(PermanentError, match=f"port {port} of .* cannot be served on: choose another one"):
            call(env, "metrics", "--port", port)
    with pytest.raises(PermanentError, match=r"^port 9401 of 192\.0\.2\.1 cannot be served on"):
        call(env, "metrics", "--address", "192.0.2.1")


@pytest.mark.parametrize("missing", ["PIXCRAWLER_DATABASE_URL", "PIXCRAWLER_BROKER_URL"])
def test_without_services_it_says_which_setting_is_missing(env: Mapping[str, str], missing: str) -> None:
    with pytest.raises(PermanentError, match=f"set {missing}"):
        call({name: value for name, value in env.items() if name != missing}, "metrics")

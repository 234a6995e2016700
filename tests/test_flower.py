import base64
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixcrawler_worker.embedded.services import Services

PASSWORD = "pixcrawler:hunter2"


@contextlib.contextmanager
def flower(services: Services, folder: Path) -> Iterator[int]:
    """Run Flower; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    environment = os.environ | {"PIXCRAWLER_BROKER_URL": services.broker_url, "FLOWER_BASIC_AUTH": PASSWORD}
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pixcrawler_worker.flower", f"--port={port}", "--address=0.0.0.0"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while get(port, "/healthcheck", attempt=True) != 200:
            is_late = process.poll() is not None or time.monotonic() > deadline
            assert not is_late, (folder / "flower.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def get(port: int, path: str, *, host: str = "localhost", password: str = "", attempt: bool = False) -> int:
    headers = {"Host": f"{host}:{port}"}
    if password:
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except OSError:
        if not attempt:
            raise
        return 0
    finally:
        connection.close()


def test_it_serves_this_machine_under_its_own_names_to_those_who_know_the_password(
    services: Services, tmp_path: Path
) -> None:
    with flower(services, tmp_path) as port:
        for path in ("/", "/tasks", "/workers", "/api/tasks", "/api/workers", "/broker"):
            assert get(port, path) == 401, path
            assert get(port, path, password="pixcrawler:wrong") == 401
            assert get(port, path, password=PASSWORD) in {200, 503}
            for host in ("rebound.example", "127.0.0.1.example", "localhost.example", "10.0.0.1", ""):
                assert get(port, path, password=PASSWORD, host=host) == 421, host
        for host in ("127.0.0.1", "LOCALHOST", "[::1]"):
            assert get(port, "/", host=host, password=PASSWORD) == 200
        assert get(port, "/metrics", host="rebound.example") == get(port, "/healthcheck", host="a.example") == 421
        # Whatever is asked for: it listens on one address of loopback alone.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 1)


def test_celery_does_not_start_it_without_a_password(services: Services, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "pixcrawler_worker", "flower", "--address=127.0.0.1", "--port=0"],
        env=environment | {"PIXCRAWLER_BROKER_URL": services.broker_url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "pixcrawler: Flower has no password, which FLOWER_BASIC_AUTH (as name:word) or its option --auth would give",
    )

"""The certificate of a Redis behind TLS is verified, by workers and by checks alike."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.broker.transport import CheckedConnection
from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import TransientError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {paths[0]} -keyout {paths[1]}".split()
    subprocess.run(
        ["openssl", *words, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True, timeout=60
    )
    return paths


@pytest.fixture
def port(services: Services, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A port that speaks TLS in front of Redis."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(accepted: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(accepted, server_side=True) as inside,
            socket.socket(socket.AF_UNIX) as outside,
        ):
            outside.connect(str(services.sockets / "redis"))
            threading.Thread(target=forward, args=(outside, inside), daemon=True).start()
            forward(inside, outside)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def by_worker(url: str) -> None:
    options = {"socket_timeout": 5, "socket_connect_timeout": 5, "max_retries": 0}
    connection: Connection
    with CheckedConnection(broker_urls.for_kombu(url), transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)


def by_check(url: str) -> None:
    quarantine.read(url, limit=1)


WAYS: list[Callable[[str], None]] = [by_worker, by_check]


@pytest.mark.parametrize("connect", WAYS)
def test_a_certificate_that_is_unknown_is_rejected_unless_it_is_named_or_not_verified(
    connect: Callable[[str], None], port: int, certificate: tuple[Path, Path]
) -> None:
    known = f"ssl_ca_certs={certificate[0]}"
    for rejected in (f"rediss://localhost:{port}/0", f"rediss://127.0.0.1:{port}/0?{known}"):
        with pytest.raises((TransientError, RedisError, KombuError), match="certificate verify failed"):
            connect(rejected)
    for accepted in (
        f"rediss://localhost:{port}/0?{known}",
        f"rediss://127.0.0.1:{port}/0?{known}&ssl_check_hostname=false",
        f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none",
    ):
        connect(accepted)

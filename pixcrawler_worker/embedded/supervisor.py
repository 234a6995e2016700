"""The process that starts PostgreSQL and Redis, and stops them when their last client has disconnected."""

import importlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from pixcrawler_worker.embedded import processes
from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Pids, Services, SupervisorConfig

_NAME = "pixcrawler"  # the database, and the role that owns it
_PORT = 5432  # only a part of the socket's name, unless it listens on the loopback interface
_LOOPBACK = "127.0.0.1"
#: Users of this machine who reach the sockets are trusted; others who reach the port need the password.
_ACCESS = f"local all all trust\nhost all all {_LOOPBACK}/32 scram-sha-256\n"
_START_TIMEOUT = timedelta(seconds=60)  # long, for the recovery after a crash

_Process = subprocess.Popen[bytes]


def supervise(config: SupervisorConfig, first_client: socket.socket) -> None:
    """Start both servers, serve the first client and later ones, and stop both servers when the last one disconnects.

    SIGTERM and the end of a server stop both servers too: clients never have only one of them. Before they are ready,
    SIGTERM ends the start at once.
    """
    signals = _Signals()
    # The connection of the last client stays open until both servers have stopped: it closes, and the client knows.
    clients = {first_client}
    try:
        with _redis(config) as redis, _postgres(config) as postgres:
            services = Services(
                database_url=f"postgresql:///{_NAME}?host={config.sockets}&port={postgres.port}&user={_NAME}",
                broker_url=redis.broker_url,
                redis_url=redis.url,
                data_dir=config.data_dir,
                sockets=config.sockets,
                redis_server=config.redis,
                durable=config.durable,
                pids=Pids(supervisor=os.getpid(), postgres=postgres.process.pid, redis=redis.pid),
                tcp_database_url=postgres.tcp_url,
                tcp_broker_url=redis.tcp_url,
            )
            # When this is closed, a new client cannot connect, and starts the services when this process has ended.
            signals.starting = False
            with socket.socket(socket.AF_UNIX) as listener:
                path = config.sockets / "supervisor"
                listener.bind(str(path))
                listener.listen()
                _serve(
                    clients,
                    listener,
                    announcement=services.to_json(),
                    signals=signals,
                    are_running=lambda: postgres.process.poll() is None and redis.is_running(),
                )
                # By this the last client knows that it may kill the servers.
                path.unlink()
    except EmbeddedError as error:
        _send(first_client, json.dumps({"error": str(error)}))
    except _StopRequestedError:
        pass
    finally:
        shutil.rmtree(config.sockets, ignore_errors=True)
        (config.data_dir / "services.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Redis:
    """A Redis that accepts connections: redis-server, or the one written in Python."""

    pid: int
    url: str
    broker_url: str
    is_running: Callable[[], bool]
    tcp_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Postgres:
    """A PostgreSQL that accepts connections; `tcp_url` is for the loopback interface, on which it may not listen."""

    process: _Process
    port: int
    tcp_url: str | None = None


class _StopRequestedError(Exception):
    """SIGTERM was received before the servers were ready."""


class _Signals:
    """SIGTERM and SIGCHLD as a socket for a selector. After SIGCHLD a server may have ended.

    Attributes:
        starting: whether the servers are not ready yet: the first SIGTERM is raised then.
        stop_requested: whether SIGTERM was received.
    """

    def __init__(self) -> None:
        self.starting = True
        self.stop_requested = False
        self.wakeup, self._wakeup_sender = socket.socketpair()
        self.wakeup.setblocking(False)
        self._wakeup_sender.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._request_stop)
        # An empty handler instead of SIG_IGN, which the servers would inherit.
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _request_stop(self, *_: object) -> None:
        is_first, self.stop_requested = not self.stop_requested, True
        if self.starting and is_first:
            raise _StopRequestedError


def _serve(
    clients: set[socket.socket],
    listener: socket.socket,
    *,
    announcement: str,
    signals: _Signals,
    are_running: Callable[[], bool],
) -> None:
    with selectors.DefaultSelector() as selector:
        for source in (listener, signals.wakeup, *clients):
            selector.register(source, selectors.EVENT_READ, source)
        for client in clients:
            _send(client, announcement)
        while not signals.stop_requested and are_running():
            for key, _ in selector.select():
                source = key.data
                if source is signals.wakeup:
                    source.recv(4096)
                elif source is listener:
                    client, _ = listener.accept()
                    _send(client, announcement)
                    clients.add(client)
                    selector.register(client, selectors.EVENT_READ, client)
                elif _is_disconnected(source):
                    if len(clients) == 1:
                        return
                    selector.unregister(source)
                    clients.remove(source)
                    source.close()


def _send(client: socket.socket, line: str) -> None:
    with suppress(OSError):  # a client that has disconnected is noticed when its connection is read
        client.sendall(line.encode() + b"\n")


def _is_disconnected(client: socket.socket) -> bool:
    try:
        return client.recv(4096) == b""
    except ConnectionError:
        return True


# The servers


@contextmanager
def _postgres(config: SupervisorConfig) -> Iterator[_Postgres]:
    port, network, tcp_url = _PORT, ["-c", "listen_addresses="], None
    with processes.lock(config.postgres_home / "server.lock", stop_with=signal.SIGINT) as lock:
        if not config.cluster.exists():
            _make_cluster(config, lock)
        if config.tcp:
            port, password = _free_port(), secrets.token_hex(16)
            tcp_url = f"postgresql://{_NAME}:{password}@{_LOOPBACK}:{port}/{_NAME}"
            access = config.postgres_home / "pg_hba.conf"
            access.write_text(_ACCESS)
            network = ["-c", f"listen_addresses={_LOOPBACK}", "-c", f"hba_file={access}"]
            _run_single(config, lock, config.cluster, _NAME, f"ALTER ROLE {_NAME} PASSWORD '{password}'")
        fast = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
        server = _spawn(
            [
                *(str(config.postgres), "-D", str(config.cluster), "-k", str(config.sockets), "-p", str(port)),
                *(*network, "-c", "max_connections=200", "-c", "log_checkpoints=off"),
                *(() if config.durable else fast),
            ],
            lock,
            signal.SIGINT,  # "fast shutdown": open transactions are rolled back
        )

    def ready() -> bool:
        # The test of `pg_ctl start --wait`.
        with suppress(FileNotFoundError, IndexError):
            lines = (config.cluster / "postmaster.pid").read_text().splitlines()
            return lines[0] == str(server.pid) and lines[7].strip() == "ready"
        return False

    with _stopping(server, signal.SIGINT):
        _wait_for(server, ready, processes.log_of(lock))
        yield _Postgres(server, port, tcp_url)


def _make_cluster(config: SupervisorConfig, lock: IO[str]) -> None:
    """Make the data directory of PostgreSQL with the database in it, completely or not at all."""
    fresh = config.cluster.with_name("fresh")
    if fresh.exists():
        shutil.rmtree(fresh)
    initdb = [
        *(str(config.postgres.with_name("initdb")), "-D", str(fresh), f"--username={_NAME}", "--auth=trust"),
        # The provider that is built into PostgreSQL sorts the same on every machine; locales of the system do not.
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--no-instructions", *(() if config.durable else ("--no-sync",))),
    ]
    _run_step(initdb, lock, "")
    _run_single(config, lock, fresh, "template1", f"CREATE DATABASE {_NAME} STRATEGY file_copy")
    fresh.rename(config.cluster)


def _run_single(config: SupervisorConfig, lock: IO[str], cluster: Path, database: str, statement: str) -> None:
    """Run a statement in a cluster that no server has open."""
    single = [str(config.postgres), "--single", "-D", str(cluster), "-c", "exit_on_error=on"]
    if not config.durable:
        single += ["-c", "fsync=off"]
    _run_step([*single, database], lock, f"{statement}\n")


def _run_step(command: list[str], lock: IO[str], statement: str) -> None:
    step = _spawn(command, lock, signal.SIGKILL, stdin=subprocess.PIPE, new_session=True)
    try:
        step.communicate(statement.encode())
    except _StopRequestedError:
        # With the processes that it has started.
        os.killpg(step.pid, signal.SIGKILL)
        step.wait()
        raise
    if step.returncode:
        raise EmbeddedError(f"{command[0]} failed: {processes.last_lines(processes.log_of(lock))}")


def _free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as server:
        server.bind((_LOOPBACK, 0))
        port: int = server.getsockname()[1]
        return port


@contextmanager
def _redis(config: SupervisorConfig) -> Iterator[_Redis]:
    if config.redis == FAKE_REDIS:
        port = _serve_fake_redis()
        url = f"redis://127.0.0.1:{port}/0"
        yield _Redis(os.getpid(), url, url, lambda: True, url if config.tcp else None)
        return
    path = config.sockets / "redis"
    user, password, tcp_url, network = "", "", None, ["--port", "0"]
    if config.tcp:
        port, password = _free_port(), secrets.token_hex(16)
        # In a file, because anyone on this machine can read the arguments of a process.
        secret = config.redis_home / "redis.conf"
        secret.touch(mode=0o600)
        secret.write_text(f"requirepass {password}\n")
        user, tcp_url = f":{password}@", f"redis://:{password}@{_LOOPBACK}:{port}/0"
        network = [str(secret), "--bind", _LOOPBACK, "--port", str(port)]
    with processes.lock(config.redis_home / "server.lock", stop_with=signal.SIGTERM) as lock:
        server = _spawn(
            [
                *(config.redis, *network, "--unixsocket", str(path), "--dir", str(config.redis_home)),
                *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--save", ""),
                *("--appendonly", "yes" if config.durable else "no", "--appendfsync", "everysec"),
            ],
            lock,
            signal.SIGTERM,
        )
    with _stopping(server, signal.SIGTERM):
        _wait_for(server, lambda: _answers_ping(path, password), processes.log_of(lock))
        yield _Redis(
            server.pid,
            f"unix://{user}{path}?db=0",
            f"redis+socket://{user}{path}?virtual_host=0",
            lambda: server.poll() is None,
            tcp_url,
        )


def _answers_ping(path: Path, password: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(1)
        connection.connect(str(path))
        if password:
            connection.sendall(f"AUTH {password}\r\n".encode())
            connection.recv(64)
        connection.sendall(b"PING\r\n")
        return connection.recv(64) == b"+PONG\r\n"  # -LOADING while it reads its data
    return False


def _serve_fake_redis() -> int:
    """Serve on a free port of the loopback interface from a thread that ends with this process; return the port."""
    fakeredis = importlib.import_module("fakeredis")  # installed with the extra `demo` only
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port: int = server.server_address[1]
    return port


def _spawn(
    command: list[str],
    lock: IO[str],
    stop_with: signal.Signals,
    *,
    stdin: int = subprocess.DEVNULL,
    new_session: bool = False,
) -> _Process:
    """Start a process to which, on Linux, the kernel sends this signal when the supervisor dies."""
    setpriv = processes.setpriv()
    die_with_supervisor = [setpriv, "--pdeathsig", stop_with.name.removeprefix("SIG")] if setpriv else []
    return processes.spawn([*die_with_supervisor, *command], lock=lock, stdin=stdin, new_session=new_session)


@contextmanager
def _stopping(server: _Process, stop_with: signal.Signals) -> Iterator[None]:
    try:
        yield
    finally:
        server.send_signal(stop_with)
        try:
            server.wait(processes.STOP_TIMEOUT.total_seconds())
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(server: _Process, ready: Callable[[], bool], log: Path) -> None:
    processes.wait_until(_START_TIMEOUT, lambda: ready() or server.poll() is not None)
    if not ready():
        raise EmbeddedError(f"{log.parent.name} did not start: {processes.last_lines(log)}")


if __name__ == "__main__":
    supervise(SupervisorConfig.from_json(sys.argv[1]), socket.socket(fileno=sys.stdin.fileno()))

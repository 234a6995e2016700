"""The process that starts PostgreSQL and Redis, and stops them when their last user has left."""

import importlib
import json
import os
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
from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Pids, Plan, Services

_NAME = "pixcrawler"  # the database, and the role that owns it
_PORT = "5432"  # only a part of the socket's name; nothing listens on the network
_START_PATIENCE = timedelta(seconds=60)  # recovery after a crash takes its time

_Process = subprocess.Popen[bytes]


def guard(plan: Plan, first: socket.socket) -> None:
    """Start both servers, greet the first user and all who come later, stop both when the last has left.

    SIGTERM ends it too, and so does the death of a server: users lose both then, rather than keep half a pair.
    """
    signals = _Signals()
    users = {first}  # the last one's connection stays open to the end: that is how it knows that all has stopped
    try:
        with _redis(plan) as redis, _postgres(plan) as postgres:
            services = Services(
                database_url=f"postgresql:///{_NAME}?host={plan.sockets}&port={_PORT}&user={_NAME}",
                broker_url=redis.broker_url,
                redis_url=redis.url,
                data_dir=plan.data_dir,
                sockets=plan.sockets,
                redis_server=plan.redis,
                durable=plan.durable,
                pids=Pids(guardian=os.getpid(), postgres=postgres.pid, redis=redis.pid),
            )
            # Once this is closed, whoever comes finds nobody listening, and starts anew when this process has ended.
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(plan.sockets / "guardian"))
                listener.listen()
                _serve(
                    users,
                    listener,
                    greeting=services.to_json(),
                    signals=signals,
                    healthy=lambda: postgres.poll() is None and redis.lives(),
                )
    except EmbeddedError as error:
        _say(first, json.dumps({"error": str(error)}))
    finally:
        shutil.rmtree(plan.sockets, ignore_errors=True)
        (plan.data_dir / "services.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Redis:
    """A Redis that answers, whoever plays it."""

    pid: int
    url: str
    broker_url: str
    lives: Callable[[], bool]


class _Signals:
    """Signals as something to select on: SIGTERM asks to stop, SIGCHLD says that a server may have died."""

    def __init__(self) -> None:
        self.stop = False
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        signal.set_wakeup_fd(self._rope.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        for number in (
            signal.SIGINT,
            signal.SIGCHLD,
        ):  # handled by nothing, not ignored: the servers would inherit that
            signal.signal(number, lambda *_: None)

    def _ask_to_stop(self, *_: object) -> None:
        self.stop = True


def _serve(
    users: set[socket.socket],
    listener: socket.socket,
    *,
    greeting: str,
    signals: _Signals,
    healthy: Callable[[], bool],
) -> None:
    with selectors.DefaultSelector() as selector:
        for source in (listener, signals.bell, *users):
            selector.register(source, selectors.EVENT_READ, source)
        for user in users:
            _say(user, greeting)
        while not signals.stop and healthy():
            for key, _ in selector.select():
                source = key.data
                if source is signals.bell:
                    source.recv(4096)
                elif source is listener:
                    user, _ = listener.accept()
                    _say(user, greeting)
                    users.add(user)
                    selector.register(user, selectors.EVENT_READ, user)
                elif _has_left(source):
                    if len(users) == 1:
                        return
                    selector.unregister(source)
                    users.remove(source)
                    source.close()


def _say(user: socket.socket, line: str) -> None:
    with suppress(OSError):  # a user that has gone is noticed when its connection is read
        user.sendall(line.encode() + b"\n")


def _has_left(user: socket.socket) -> bool:
    try:
        return user.recv(4096) == b""
    except ConnectionError:
        return True


# The servers.


@contextmanager
def _postgres(plan: Plan) -> Iterator[_Process]:
    with processes.lock(plan.postgres_home / "server.lock", stop_with=signal.SIGINT) as lock:
        if not plan.cluster.exists():
            _make_cluster(plan, lock)
        fast = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
        server = _spawn(
            [
                *(str(plan.postgres), "-D", str(plan.cluster), "-k", str(plan.sockets), "-p", _PORT),
                *("-c", "listen_addresses=", "-c", "max_connections=200", "-c", "log_checkpoints=off"),
                *(() if plan.durable else fast),
            ],
            lock,
            signal.SIGINT,  # "fast shutdown": open transactions are rolled back
        )

    def ready() -> bool:
        # As `pg_ctl start --wait` looks for it.
        with suppress(FileNotFoundError, IndexError):
            note = (plan.cluster / "postmaster.pid").read_text().splitlines()
            return note[0] == str(server.pid) and note[7].strip() == "ready"
        return False

    with _stopping(server, signal.SIGINT):
        _wait_for(server, ready, processes.log_of(lock))
        yield server


def _make_cluster(plan: Plan, lock: IO[str]) -> None:
    """Make PostgreSQL's data directory with our database in it, whole or not at all."""
    fresh = plan.cluster.with_name("fresh")
    if fresh.exists():
        shutil.rmtree(fresh)
    initdb = [
        *(str(plan.postgres.with_name("initdb")), "-D", str(fresh), f"--username={_NAME}", "--auth=trust"),
        # The provider built into PostgreSQL sorts alike on every machine, whatever locales are installed.
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--no-instructions", *(() if plan.durable else ("--no-sync",))),
    ]
    single = [str(plan.postgres), "--single", "-D", str(fresh), "-c", "exit_on_error=on"]
    if not plan.durable:
        single += ["-c", "fsync=off"]
    for command, statement in (
        (initdb, b""),
        ([*single, "template1"], f"CREATE DATABASE {_NAME} STRATEGY file_copy\n".encode()),
    ):
        step = _spawn(command, lock, signal.SIGKILL, stdin=subprocess.PIPE)
        step.communicate(statement)
        if step.returncode:
            raise EmbeddedError(f"{command[0]} failed: {processes.last_words(processes.log_of(lock))}")
    fresh.rename(plan.cluster)


@contextmanager
def _redis(plan: Plan) -> Iterator[_Redis]:
    if plan.redis == FAKE_REDIS:
        port = _serve_fake_redis()
        url = f"redis://127.0.0.1:{port}/0"
        yield _Redis(os.getpid(), url, url, lambda: True)
        return
    path = plan.sockets / "redis"
    with processes.lock(plan.redis_home / "server.lock", stop_with=signal.SIGTERM) as lock:
        server = _spawn(
            [
                *(plan.redis, "--port", "0", "--unixsocket", str(path), "--dir", str(plan.redis_home)),
                *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--save", ""),
                *("--appendonly", "yes" if plan.durable else "no", "--appendfsync", "everysec"),
            ],
            lock,
            signal.SIGTERM,
        )
    with _stopping(server, signal.SIGTERM):
        _wait_for(server, lambda: _pongs(path), processes.log_of(lock))
        yield _Redis(
            server.pid, f"unix://{path}?db=0", f"redis+socket://{path}?virtual_host=0", lambda: server.poll() is None
        )


def _pongs(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64) == b"+PONG\r\n"  # while it reads its data back in, it answers -LOADING
    return False


def _serve_fake_redis() -> int:
    """Serve from a thread, which ends with this process, on a free port of the loopback interface."""
    fakeredis = importlib.import_module("fakeredis")  # only the demo has it
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port: int = server.server_address[1]
    return port


def _spawn(
    command: list[str], lock: IO[str], stop_with: signal.Signals, *, stdin: int = subprocess.DEVNULL
) -> _Process:
    """Start a process that is sent this signal by the kernel when the guardian dies, where the kernel offers that."""
    setpriv = processes.setpriv()
    dies_with_us = [setpriv, "--pdeathsig", stop_with.name.removeprefix("SIG")] if setpriv else []
    return processes.spawn([*dies_with_us, *command], lock=lock, stdin=stdin)


@contextmanager
def _stopping(server: _Process, stop_with: signal.Signals) -> Iterator[None]:
    try:
        yield
    finally:
        server.send_signal(stop_with)
        try:
            server.wait(processes.STOP_PATIENCE.total_seconds())
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(server: _Process, ready: Callable[[], bool], log: Path) -> None:
    processes.within(_START_PATIENCE, lambda: ready() or server.poll() is not None)
    if not ready():
        raise EmbeddedError(f"{log.parent.name} did not start: {processes.last_words(log)}")


if __name__ == "__main__":
    guard(Plan.from_json(sys.argv[1]), socket.socket(fileno=sys.stdin.fileno()))

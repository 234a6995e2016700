"""PostgreSQL, Redis, a storage and web servers of the run alone, each of which a fault may stop, kill or fill."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from pixcrawler_worker.db import migrate
from pixcrawler_worker.embedded import launcher, processes

TESTS = Path(__file__).parents[1]
#: Connections that PostgreSQL accepts: few, so that a fault can take all of them.
_MAX_CONNECTIONS = 60
#: Bytes of the storage, where it is a file system of its own.
_STORAGE_BYTES = 2 * 1024**3


class Server:
    """A server of the run: started, stopped by a signal, and started again.

    Args:
        command: of the server.
        log: where its output goes.
        ready: whether it accepts connections.
    """

    def __init__(self, command: list[str], log: Path, ready: Callable[[], bool]) -> None:
        self._command = command
        self._log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._ready, seconds=60, what=self._command[0])

    def stop(self, number: signal.Signals) -> None:
        """Send it a signal and wait until it has ended."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def restart(self, number: signal.Signals, between: Callable[[], None] = lambda: None) -> None:
        """Stop it by a signal, do something, and start it again."""
        self.stop(number)
        try:
            between()
        finally:
            self.start()


def wait_until(ready: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until something is ready.

    Raises:
        TimeoutError: when it takes too long.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Database(Server):
    """PostgreSQL on a Unix socket: what was committed survives its processes, not the machine."""

    def __init__(self, home: Path, logs: Path) -> None:
        # The launcher makes the cluster; its servers are stopped, because a run restarts each by itself.
        with launcher.running(home, durable=False):
            pass
        program = launcher.locate("postgres")
        assert program is not None
        self.log = logs / "postgres.log"
        sockets = home / "sockets"
        sockets.mkdir()
        cluster = home / "postgres" / "cluster"
        if os.geteuid() == 0:
            shutil.chown(sockets, "nobody")
        options = {
            "listen_addresses": "",
            "max_connections": str(_MAX_CONNECTIONS),
            "fsync": "off",
            "full_page_writes": "off",
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] %a ",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self.url = f"postgresql:///pixcrawler?host={sockets}&port=5432&user=pixcrawler"
        super().__init__(
            [*_unprivileged(), str(program), "-D", str(cluster), "-k", str(sockets), "-p", "5432", *settings],
            self.log,
            self._accepts,
        )

    def _accepts(self) -> bool:
        try:
            self.connect("chaos").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, name: str) -> psycopg.Connection:
        """Return a connection of the run itself, in which every statement commits."""
        connection = psycopg.connect(
            self.url, autocommit=True, application_name=name, connect_timeout=5, prepare_threshold=None
        )
        connection.execute("SET default_transaction_read_only = off")
        return connection

    def deadlocks(self) -> int:
        """Return how many deadlocks the log has."""
        return self.log.read_text(errors="replace").count("deadlock detected")

    def start_migrated(self) -> None:
        """Start it for the first time."""
        self.start()
        migrate.upgrade(self.url)


class Broker(Server):
    """Redis on a port of loopback, which writes what it has to a file."""

    def __init__(self, home: Path, logs: Path) -> None:
        program = launcher.locate("redis-server")
        assert program is not None, "no redis-server is installed"
        home.mkdir()
        self._home = home
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        words = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        super().__init__(words, logs / "redis.log", self._accepts)

    def _accepts(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a client of the run itself."""
        return redis.Redis(port=self.port, socket_timeout=3, socket_connect_timeout=3)

    def lose_data(self) -> None:
        """Remove its files, while it is stopped."""
        for path in self._home.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@dataclass
class Storage:
    """The folder of images and archives; a small file system of its own where root may mount one.

    Attributes:
        path: of the folder.
        mounted: whether it is a file system of its own, which can be read only, and full.
    """

    path: Path
    mounted: bool = False

    def open(self) -> None:
        """Make the folder."""
        self.path.mkdir()
        if os.geteuid() == 0:
            self.mounted = self._mount("-t", "tmpfs", "-o", f"size={_STORAGE_BYTES},mode=755", "tmpfs")

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)

    def set_read_only(self, read_only: bool) -> bool:  # noqa: FBT001 - the name says it
        """Let it accept writes or not; return whether that was done: not while a file is being written."""
        return self._mount("-o", f"remount,{'ro' if read_only else 'rw'},size={_STORAGE_BYTES}")

    def set_full(self, full: bool) -> bool:  # noqa: FBT001 - the name says it
        """Let it have no room or all that it has."""
        used = shutil.disk_usage(self.path).used
        return self._mount("-o", f"remount,rw,size={max(used, 1) if full else _STORAGE_BYTES}")

    def _mount(self, *words: str) -> bool:
        program = shutil.which("mount")
        if program is None:
            return False
        return subprocess.run([program, *words, str(self.path)], check=False, capture_output=True).returncode == 0


class WebServers:
    """The process of `servers.py`."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(TESTS)}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.servers"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        urls = json.loads(self._process.stdout.readline())
        self.steady: str = urls["steady"]
        self.unsteady: str = urls["unsteady"]
        self.commons: str = urls["commons"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _unprivileged() -> list[str]:
    """Return the words in front of PostgreSQL's command when root runs it, as the embedded launcher has them."""
    if os.geteuid() != 0:
        return []
    nobody, program = pwd.getpwnam("nobody"), processes.setpriv()
    assert program is not None, "PostgreSQL does not run as root: install util-linux"
    capabilities = "-all,+dac_override,+fowner"
    return [
        *(program, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs"),
        *("--securebits=+no_setuid_fixup", f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
    ]

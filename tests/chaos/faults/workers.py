"""Worker processes that are killed, stopped, asked to end, or starved of the CPU.

Two crashes of one chunk make it a poison chunk, which fails for good. So a process is stopped before it is killed, and
spared when a chunk that it runs has crashed before: what these faults do must not change how a job ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos import processes
from chaos.faults.catalog import LEASE, Arena, SkippedError, fault
from chaos.recovery import Victim
from chaos.workers import Worker, until

from pixcrawler_worker.jobs.limits import LIMITS

_HELD = """
    SELECT id, fence, crash_count, attempt FROM pixcrawler.chunks
    WHERE state = 'running' AND split_part(owner, ':', 2)::int = ANY(%s)
"""
#: Attempts after which a chunk is spared: it has five.
_SPARED_FROM = 4
#: Seconds in which a statement that was sent before its process was stopped has taken effect.
_SETTLE = 0.03
#: Seconds that a worker gets to end when it is asked to. After SIGINT it waits for the tasks under way, and those for a
#: database that is away.
_GRACE = 45.0
_LONG_GRACE = _GRACE + LIMITS.transition_time.total_seconds()


@contextlib.contextmanager
def _stopped(arena: Arena, pids: Sequence[int]) -> Iterator[list[Victim]]:
    """Stop processes and yield the chunks that they run; continue them afterwards, unless they are killed.

    Raises:
        SkippedError: when one of the chunks has crashed before.
    """
    processes.send(pids, signal.SIGSTOP)
    try:
        time.sleep(_SETTLE)
        with arena.database.connect("chaos fault") as connection:
            held = connection.execute(_HELD, (list(pids),)).fetchall()
        if any(crashes or attempt >= _SPARED_FROM for _, _, crashes, attempt in held):
            raise SkippedError("a chunk of the process has crashed before")
        yield [Victim(chunk, fence) for chunk, fence, _, _ in held]
    finally:
        processes.send(pids, signal.SIGCONT)


def _ready(arena: Arena) -> Worker:
    """Return a worker whose children run."""
    found = [worker for worker in arena.workers.all() if worker.children()]
    if not found:
        raise SkippedError("no worker has children at the moment")
    return arena.random.choice(found)


def _busy_child(arena: Arena) -> int:
    """Return a child, one that runs a chunk if there is one."""
    mine = {pid for worker in arena.workers.all() for pid in worker.children()}
    with arena.database.connect("chaos fault") as connection:
        rows = connection.execute(
            "SELECT DISTINCT split_part(owner, ':', 2)::int FROM pixcrawler.chunks"
            " WHERE state = 'running' AND crash_count = 0"
        ).fetchall()
    busy = [int(pid) for (pid,) in rows if pid in mine]
    if not mine:
        raise SkippedError("no child runs")
    return arena.random.choice(busy or sorted(mine))


def _kill(arena: Arena, pids: Sequence[int]) -> None:
    """Kill processes, and wait for the recovery of their chunks."""
    with _stopped(arena, pids) as victims:
        processes.send(pids, signal.SIGKILL)
        arena.expect(victims)


@fault("child killed", "workers", weight=5)
def kill_child(arena: Arena) -> None:
    _kill(arena, [_busy_child(arena)])


@fault("two children killed", "workers")
def kill_two_children(arena: Arena) -> None:
    _kill(arena, sorted({_busy_child(arena), _busy_child(arena)}))


@fault("child killed in its first second", "workers", alone="mains")
def kill_young_child(arena: Arena) -> None:
    worker = _ready(arena)
    known = set(worker.children())
    if not known:
        raise SkippedError("no child runs")
    _kill(arena, [min(known)])
    until(lambda: bool(set(worker.children()) - known), seconds=10)
    processes.send(set(worker.children()) - known, signal.SIGKILL)


@fault("main killed, its children not", "workers", alone="mains")
def kill_main(arena: Arena) -> None:
    worker = _ready(arena)
    with _stopped(arena, worker.children()) as victims:
        worker.asked = "main killed"
        processes.send([worker.pid], signal.SIGKILL)
    # Its children may finish what they run; if they do not, the sweep of another worker takes it back.
    arena.expect(victims)
    arena.workers.wait_until_restarted(worker)


@fault("main and children killed", "workers", alone="mains")
def kill_family(arena: Arena) -> None:
    _kill_family(arena, [_ready(arena)], "main and children killed")


@fault("all mains and children killed", "workers", alone="mains", takes=True)
def kill_all(arena: Arena) -> None:
    _kill_family(arena, arena.workers.all(), "all mains and children killed")


def _kill_family(arena: Arena, workers: Sequence[Worker], name: str) -> None:
    everything = [pid for worker in workers for pid in worker.everything()]
    with _stopped(arena, everything) as victims:
        for worker in workers:
            worker.asked = name
        processes.send(everything, signal.SIGKILL)
        arena.expect(victims)
    for worker in workers:
        arena.workers.wait_until_restarted(worker)


@fault("main killed in its first seconds", "workers", alone="mains")
def kill_starting_main(arena: Arena) -> None:
    worker = _ready(arena)
    _kill_family(arena, [worker], "main and children killed")
    young = next(one for one in arena.workers.all() if one.name == worker.name)
    arena.hold(arena.between(0.3, 2.5))
    _kill_family(arena, [young], "main killed in its first seconds")


@fault("child stopped beyond its lease", "workers", weight=2)
def stop_child(arena: Arena) -> None:
    child = _busy_child(arena)
    _stop_beyond_lease(arena, [child])


@fault("child stopped for a moment", "workers")
def stop_child_shortly(arena: Arena) -> None:
    child = _busy_child(arena)
    with _stopped(arena, [child]):
        arena.hold(arena.between(0.5, LEASE / 2))


@fault("main stopped beyond the lease", "workers", alone="mains")
def stop_main(arena: Arena) -> None:
    worker = _ready(arena)
    with _stopped(arena, [worker.pid]):
        arena.hold(LEASE + arena.between(1, 4))


@fault("main and children stopped beyond the lease", "workers", alone="mains")
def stop_family(arena: Arena) -> None:
    worker = _ready(arena)
    _stop_beyond_lease(arena, worker.everything())


def _stop_beyond_lease(arena: Arena, pids: Sequence[int]) -> None:
    with _stopped(arena, pids) as victims:
        arena.expect(victims)
        arena.hold(LEASE + arena.between(1, 4))


@fault("SIGTERM", "workers", alone="mains")
def terminate(arena: Arena) -> None:
    _ask(arena, signal.SIGTERM)


@fault("SIGQUIT", "workers", alone="mains")
def quit_worker(arena: Arena) -> None:
    _ask(arena, signal.SIGQUIT)


@fault("SIGINT", "workers", alone="mains")
def interrupt(arena: Arena) -> None:
    _ask(arena, signal.SIGINT)


@fault("SIGTERM twice", "workers", alone="mains")
def terminate_twice(arena: Arena) -> None:
    _ask(arena, signal.SIGTERM, signal.SIGTERM)


@fault("SIGTERM, then SIGQUIT", "workers", alone="mains")
def terminate_and_quit(arena: Arena) -> None:
    _ask(arena, signal.SIGTERM, signal.SIGQUIT)


@fault("SIGTERM, then killed", "workers", alone="mains")
def terminate_and_kill(arena: Arena) -> None:
    worker = _ready(arena)
    worker.asked = "SIGTERM, then killed"
    processes.send([worker.pid], signal.SIGTERM)
    arena.hold(arena.between(0, 0.5))
    with contextlib.suppress(SkippedError):
        _kill_family(arena, [worker], "SIGTERM, then killed")
    arena.workers.wait_until_restarted(worker)


def _ask(arena: Arena, *numbers: signal.Signals) -> None:
    """Ask a worker to end; it must do so within its grace period."""
    worker = _ready(arena)
    worker.asked = ", ".join(number.name for number in numbers)
    for number in numbers:
        processes.send([worker.pid], number)
        arena.hold(arena.between(0.05, 0.6))
    grace = _LONG_GRACE if set(numbers) == {signal.SIGINT} else _GRACE
    if not until(lambda: not processes.is_running(worker.pid) or arena.ended.is_set(), seconds=grace):
        arena.workers.exits.append(f"{worker.name} did not end within {grace:.0f} s of {worker.asked}")
        arena.events.write("violation", rule="workers end when they are asked", what=arena.workers.exits[-1])
        processes.send(worker.everything(), signal.SIGKILL)
    arena.workers.wait_until_restarted(worker)


@fault("decoder stopped and continued", "decoders", weight=4)
def stop_decoder(arena: Arena) -> None:
    found = [pid for worker in arena.workers.all() for pid in worker.decoders()]
    if not found:
        raise SkippedError("no decoder runs")
    chosen = [arena.random.choice(found)]
    for _ in range(arena.random.randint(1, 8)):
        processes.send(chosen, signal.SIGSTOP)
        try:
            arena.hold(arena.between(0.01, 0.6))
        finally:
            processes.send(chosen, signal.SIGCONT)
        arena.hold(0.05)


@fault("decoder killed", "decoders", weight=4)
def kill_decoder(arena: Arena) -> None:
    """Kill one, which costs no image: only an image at which two decoders died is rejected."""
    found = [pid for worker in arena.workers.all() for pid in worker.decoders()]
    if not found:
        raise SkippedError("no decoder runs")
    processes.send([arena.random.choice(found)], signal.SIGKILL)


@fault("decoders killed with their child", "decoders")
def kill_child_and_decoder(arena: Arena) -> None:
    child = _busy_child(arena)
    decoders = [pid for pid in processes.family().get(child, []) if processes.is_decoder(pid)]
    _kill(arena, [child, *decoders])


@fault("CPU taken by other processes", "machine", alone="cpu", takes=True)
def burn(arena: Arena) -> None:
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        arena.hold(arena.between(1, 3))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@fault("worker stopped and continued ten times a second", "machine", alone="cpu", takes=True)
def flap(arena: Arena) -> None:
    worker = _ready(arena)
    end = arena.now() + 3
    while arena.now() < end and not arena.ended.is_set():
        everything = worker.everything()
        processes.send(everything, signal.SIGSTOP)
        try:
            arena.hold(0.09)
        finally:
            processes.send(everything, signal.SIGCONT)
        arena.hold(0.03)


@fault("worker at the lowest priority", "machine", alone="cpu", takes=True)
def make_nice(arena: Arena) -> None:
    worker = _ready(arena)
    if os.geteuid() != 0:
        raise SkippedError("only root may raise the priority again")
    everything = worker.everything()
    try:
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, 19)
        arena.hold(arena.between(2, 5))
    finally:
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, 0)


@fault("worker with a wrong clock", "machine", alone="mains", takes=True)
def wrong_clock(arena: Arena) -> None:
    """Start a worker whose clock is an hour wrong, where libfaketime is installed; in another time zone otherwise."""
    hours = arena.random.choice((-1, 1))
    library = next(
        (path for path in sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), shutil.which("faketime")
    )
    if library and str(library).endswith(".so.1"):
        arena.workers.next_start(LD_PRELOAD=str(library), FAKETIME=f"{hours:+d}h", DONT_FAKE_MONOTONIC="1")
    else:
        arena.workers.next_start(TZ="Pacific/Kiritimati" if hours > 0 else "Pacific/Pago_Pago", PGTZ="Asia/Kathmandu")
    _ask(arena, signal.SIGTERM)

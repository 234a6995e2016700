"""The workers of a run: real main processes with their children, and a supervisor that restarts those that end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos import processes
from chaos.events import Events

#: Seconds between two looks of the supervisor.
_LOOK = 0.2
#: A worker that ends by itself sooner than this after its start is started again only so much later.
_PAUSE = 2.0


@dataclass
class Worker:
    """One main process.

    Attributes:
        name: of the worker.
        process: the main process.
        started: when, by the monotonic clock.
        asked: the fault that ends it, if one does: it may end.
    """

    name: str
    process: subprocess.Popen[bytes]
    started: float
    asked: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self, family: Mapping[int, list[int]] | None = None) -> list[int]:
        """Return the processes that run chunks."""
        return [pid for pid in (family or processes.family()).get(self.pid, []) if not processes.is_decoder(pid)]

    def decoders(self) -> list[int]:
        """Return the decoders of its children."""
        family = processes.family()
        below = [pid for child in self.children(family) for pid in family.get(child, [])]
        return [pid for pid in below if processes.is_decoder(pid)]

    def everything(self) -> list[int]:
        """Return the main process with all processes below it."""
        family = processes.family()
        found = [self.pid]
        for pid in found:
            found += family.get(pid, [])
        return found


@dataclass
class Workers:
    """All workers, and what happened to them.

    Attributes:
        environment: variables of every worker.
        folder: their working directory.
        logs: where their logs are.
        events: what happens.
        hurry: set when nothing is to be waited for any more.
        count: how many there are.
        children: processes of each that run chunks.
        exits: main processes that ended without being asked: what is known of each.
        starts: main processes that were started.
    """

    environment: Mapping[str, str]
    folder: Path
    logs: Path
    events: Events
    hurry: threading.Event
    count: int = 3
    children: int = 2
    exits: list[str] = field(default_factory=list)
    starts: int = 0
    _running: dict[str, Worker] = field(default_factory=dict)
    _groups: set[int] = field(default_factory=set)
    _decoders: set[int] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    #: Variables that the next start has on top, once.
    _once: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep all workers running while the context is open; afterwards end every process that they started."""
        for number in range(self.count):
            self._start(f"worker{number}")
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self.stop()

    def all(self) -> list[Worker]:
        with self._lock:
            return list(self._running.values())

    def next_start(self, **variables: str) -> None:
        """Give the next worker that is started these variables."""
        with self._lock:
            self._once.update(variables)

    def log(self, worker: Worker) -> Path:
        return self.logs / f"{worker.name}.log"

    def stop(self) -> None:
        """End the workers, first as an operator would."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        mains = [worker.pid for worker in self.all()]
        self._remember_decoders()
        processes.send(mains, signal.SIGCONT)
        processes.send(mains, signal.SIGTERM)
        for worker in self.all():
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(15)
        self.left_over()
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        processes.send([pid for pid in self._decoders if processes.is_decoder(pid)], signal.SIGKILL)
        for worker in self.all():
            worker.process.wait()

    def left_over(self) -> list[int]:
        """Return processes of main processes that have ended."""
        with self._lock:
            living = {worker.pid for worker in self._running.values()}
        return [pid for pid in _members(self._groups - living) if processes.is_running(pid)]

    def wait_until_restarted(self, worker: Worker, *, seconds: float = 60) -> bool:
        """Wait until another main process has the place of one that ends, and has children; return whether one has."""

        def restarted() -> bool:
            with self._lock:
                now = self._running[worker.name]
            return self.hurry.is_set() or (now.process is not worker.process and bool(now.children()))

        return until(restarted, seconds=seconds)

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "worker"]
        command += ["--hostname", f"{name}@chaos", "--concurrency", str(self.children), "--loglevel", "INFO"]
        with self._lock, (self.logs / f"{name}.log").open("ab") as log:
            environment = os.environ | self.environment | self._once
            self._once.clear()
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
            self.starts += 1
            self._groups.add(process.pid)
            self._running[name] = Worker(name, process, time.monotonic())

    def _supervise(self) -> None:
        while not self._ended.wait(_LOOK):
            self._remember_decoders()
            for worker in self.all():
                status = worker.process.poll()
                if status is None:
                    continue
                self.events.write("exit", worker=worker.name, status=status, asked=worker.asked)
                if not worker.asked:
                    age = time.monotonic() - worker.started
                    lines = self.log(worker).read_text(errors="replace").splitlines()[-3:]
                    self.exits.append(
                        f"{worker.name} ended with status {status} after {age:.0f} s: {' / '.join(lines)}"
                    )
                    self.events.write("violation", rule="mains end only when they are asked", what=self.exits[-1])
                    if age < _PAUSE:
                        self._ended.wait(_PAUSE)
                self._start(worker.name)

    def _remember_decoders(self) -> None:
        for worker in self.all():
            self._decoders.update(worker.decoders())


def _members(groups: set[int]) -> list[int]:
    """Return the processes in process groups."""
    found = []
    for parents in processes.family().values():
        for pid in parents:
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) in groups:
                    found.append(pid)
    return found


def until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until a condition holds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

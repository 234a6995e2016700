"""Workers and commands as forks of a process that has imported what they import: most of their start is imports.

A fork is a process of its own, with its own environment, directory, output, session, and exit code. It runs what the
script would run, from `main` on, and ends as the interpreter ends. The first module that reads the environment when it
is imported, the Celery app, is imported by the fork. Starts from nothing are tested where a test is about the start:
among others in `acceptance/test_worker_process.py`, `test_deployment.py` and `test_documents.py`.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

#: What takes long to import, and reads no setting then.
_MODULES = (
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.events.state",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "pixcrawler_worker.broker.consumer",
    "pixcrawler_worker.broker.control",
    "pixcrawler_worker.broker.monitoring",
    "pixcrawler_worker.broker.pool",
    "pixcrawler_worker.broker.transport",
    "pixcrawler_worker.cli.crawl",
    "pixcrawler_worker.cli.doctor",
    "pixcrawler_worker.cli.health",
    "pixcrawler_worker.cli.jobs",
    "pixcrawler_worker.health",
    "pixcrawler_worker.jobs.sweeper",
    "pixcrawler_worker.registry",
    "pixcrawler_worker.runtime",
)
#: It reads the settings when it is imported.
_APP = "pixcrawler_worker.celery.application"
#: Files that a process may have open here.
_FILES = 1024


class Process:
    """A fork that runs, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self.pid = int(self._report.recv(32))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code; a signal is a negative one."""
        if self.returncode is None:
            self._report.settimeout(timeout)
            try:
                status = self._report.recv(32)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a fork", timeout or 0) from None
            self._report.close()
            self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(words: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdout: IO[bytes], stderr: IO[bytes]) -> Process:
    """Start `pixcrawler` or `celery`, with arguments."""
    report, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps({"words": list(words), "env": dict(env), "cwd": str(cwd)}).encode()
    socket.send_fds(_forker(), [request], [far.fileno(), stdout.fileno(), stderr.fileno()])
    far.close()
    return Process(report)


def run(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `pixcrawler` or `celery`, with arguments, to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(words, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    return subprocess.CompletedProcess(list(words), code, *texts)


@functools.cache
def _forker() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(far.fileno())],
        pass_fds=[far.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    far.close()

    def end() -> None:
        near.close()
        process.wait()

    atexit.register(end)
    return near


def _serve(control: socket.socket) -> Callable[[], None] | None:
    """Fork for each request; return what a fork has to run, and None at the end of requests."""
    for name in _MODULES:
        importlib.import_module(name)
    assert _APP not in sys.modules
    gc.collect()
    gc.freeze()
    while True:
        request, files, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not request:
            # What they took counts as taken by this process.
            _reap()
            return None
        if os.fork() == 0:
            return _watched(json.loads(request), *files)
        for file in files:
            os.close(file)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _watched(request: Mapping[str, object], report: int, out: int, err: int) -> Callable[[], None]:
    """Fork again, and report the id and the end of the second fork, which returns from here what it has to run."""
    if pid := os.fork():
        os.write(report, str(pid).encode())
        status = os.waitpid(pid, 0)[1]
        try:
            os.write(report, str(status).encode())
        finally:
            os._exit(0)
    os.setsid()
    for file, number in ((out, 1), (err, 2)):
        os.dup2(file, number)
    os.closerange(3, _FILES)
    words, env, cwd = request["words"], request["env"], request["cwd"]
    assert isinstance(words, list)
    assert isinstance(env, dict)
    os.chdir(str(cwd))
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    return _PROGRAMS[words[0]]


def _pixcrawler() -> None:
    from pixcrawler_worker.cli.start import main  # noqa: PLC0415 - as the script does

    main()


def _celery() -> None:
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


_PROGRAMS = {"pixcrawler": _pixcrawler, "celery": _celery}


if __name__ == "__main__":
    # As with the scripts, modules next to this one are none that can be imported.
    sys.path.pop(0)
    program = _serve(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        program()

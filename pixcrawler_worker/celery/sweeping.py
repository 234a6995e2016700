"""Sweeping in a thread of the worker's main process, so that repairs never wait behind what they repair."""

import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps, signals
from kombu.exceptions import KombuError

from pixcrawler_worker import runtime
from pixcrawler_worker.broker.fork_gate import FORK_GATE
from pixcrawler_worker.celery.application import app
from pixcrawler_worker.celery.broker_watch import broker_watch
from pixcrawler_worker.celery.health_file import HealthFile
from pixcrawler_worker.celery.lost_messages import LostMessages
from pixcrawler_worker.celery.sending import send_lost, send_messages
from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import ended_processes, submission, sweeper
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.registry import JOB_KINDS

log = structlog.get_logger()

#: Seconds that a sweep under way gets when the worker stops.
_SWEEP_GRACE = 10
#: Sweeps in which a failed task's process is looked for.
_LOOKS = 2
#: Seconds between two messages that ask for storage to be tidied.
_TIDY_SECONDS = 600
#: Seconds that a sweep waits for a connection of the pool.
_ACQUIRE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class _Withdrawal:
    """A pending job whose start message is gone, and when that has consequences, by the monotonic clock."""

    kind: AnyJobKind
    job_id: int
    reason: str
    failed: bool
    due: float


class Withdrawals:
    """Ends pending jobs whose start message is gone: nothing else would ever start or end them.

    They get a lease first, because another message may start them: an API sends one again. A job that was requested in
    the database is started by a sweep meanwhile.
    """

    def __init__(self) -> None:
        self._noted: deque[_Withdrawal] = deque()

    def note(
        self, task: str, args: Sequence[object], kwargs: Mapping[str, object], reason: str, *, failed: bool = False
    ) -> None:
        """Note a message that is gone; one that does not start a job means nothing.

        Args:
            task: name of the task.
            args: of the message.
            kwargs: likewise.
            reason: why it is gone.
            failed: whether the job failed; by default it is cancelled.
        """
        for kind in JOB_KINDS.values():
            names = (kind.table.id_name, "job_id")
            job_id = args[0] if args else next((kwargs[name] for name in names if name in kwargs), None)
            if task == kind.start_task and isinstance(job_id, int) and 0 < job_id <= MAX_INT4:
                due = time.monotonic() + runtime.current().settings.lease_seconds
                self._noted.append(_Withdrawal(kind, int(job_id), reason, failed, due))
                log.warning(
                    "the start message of a job is gone: the job ends unless another one starts it",
                    kind=kind.table.name,
                    job=job_id,
                    reason=reason,
                )

    def work_off(self, now: float, *, all_of_them: bool = False) -> None:
        """End the jobs that have had their time.

        Args:
            now: by the monotonic clock.
            all_of_them: whether to end the others, too.

        Raises:
            TransientError: when the database does not answer; they are kept.
        """
        while self._noted and (all_of_them or self._noted[0].due <= now):
            one = self._noted[0]
            try:
                submission.withdraw(runtime.current(), one.kind, one.job_id, one.reason, failed=one.failed)
            except TransientError:
                raise
            except Exception:  # whatever is wrong with one row
                log.exception("job could not be ended", kind=one.kind.table.name, job=one.job_id)
            self._noted.popleft()


class Sweeper(bootsteps.StartStopStep):
    """Sweeps until the worker stops."""

    label = "Sweeper"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._pid = os.getpid()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        # Tasks that ended badly, with how often they are still looked at: a process may take a moment to die.
        self._failed: deque[tuple[str, int]] = deque()
        self._setbacks = Setbacks()
        self._thread: threading.Thread | None = None
        self._withdrawals = Withdrawals()
        self._lost = LostMessages()
        signals.task_failure.connect(self._on_failure, weak=False)
        signals.task_revoked.connect(self._on_revoked, weak=False)

    def start(self, parent: object) -> None:
        """Begin to sweep."""
        del parent
        self._thread = threading.Thread(target=self._sweep_until_ended, name="sweeper", daemon=True)
        self._thread.start()

    def stop(self, parent: object) -> None:
        """End after the sweep that may be under way."""
        del parent
        self._ended.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=_SWEEP_GRACE)
        self._send_lost()
        with contextlib.suppress(TransientError):
            self._withdrawals.work_off(time.monotonic(), all_of_them=True)

    terminate = stop

    def _on_revoked(self, sender: Any, request: Any, expired: bool, **_: object) -> None:  # noqa: ANN401, FBT001 - Celery's own
        """Note the job of a start message that was discarded, or whose task was terminated."""
        if os.getpid() == self._pid:
            reason = "its start message had expired" if expired else "the task of its start message was revoked"
            self._withdrawals.note(sender.name, request.args, request.kwargs, reason)

    def _on_failure(
        self,
        task_id: str,
        sender: Any,  # noqa: ANN401 - Celery's own
        exception: BaseException | None = None,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] = MappingProxyType({}),
        **_: object,
    ) -> None:
        """Give a failed task's chunk back without waiting for its lease.

        A child that was killed, or ran into its time limit, is reported here in the main process, where the sweeping
        thread takes over; a bug is reported in the child itself.
        """
        if os.getpid() == self._pid:
            again = isinstance(exception, WorkerLostError) and self._lost.note(sender.name, args, kwargs)
            if not again and isinstance(exception, WorkerLostError | TimeLimitExceeded):
                reason = f"the process that started it was ended ({type(exception).__name__}): retry the job"
                self._withdrawals.note(sender.name, args, kwargs, reason, failed=True)
            self._failed.append((task_id, _LOOKS))
            self._wanted.set()
            return
        with contextlib.suppress(TransientError):
            ended_processes.expire_lease(runtime.current(), task_id, ended=lambda pid: pid == os.getpid())

    def _sweep_until_ended(self) -> None:
        tidied = time.monotonic()
        while not self._ended.is_set():
            seconds = runtime.current().settings.sweep_seconds
            with FORK_GATE.work():
                unfinished = self._sweep()
                if time.monotonic() - tidied > _TIDY_SECONDS:
                    tidied = time.monotonic()
                    with contextlib.suppress(KombuError):
                        app.send_task(Task.SWEEP.value, queue=QUEUES[Task.SWEEP].value, ignore_result=True)
            if unfinished:
                continue
            # Jitter, so that many workers do not sweep in step.
            self._wanted.wait(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing
            self._wanted.clear()

    def _check_broker(self) -> None:
        """Have messages sent again soon that the broker may have lost. Whatever goes wrong here stops no sweep."""
        try:
            pool: Any = app.pool  # the stubs take it for a pool of producers
            with pool.acquire(block=True, timeout=_ACQUIRE_SECONDS) as connection:
                broker_watch.look(connection)
            HealthFile.database = ""
        except KombuError as error:
            log.warning("the broker could not be checked", reason=str(error))
        except TransientError as error:
            # The sweep that follows meets the same database, and says so in the log.
            HealthFile.database = str(error)
        except Exception:
            log.exception("the broker could not be checked")

    def _send_lost(self) -> None:
        try:
            self._lost.send(send_lost)
        except KombuError as error:
            log.warning("messages of ended processes not sent, the next sweep tries again", reason=str(error))

    def _sweep(self) -> bool:
        """Sweep once; return whether rows are left that there was no time for."""
        self._check_broker()
        try:
            for _ in range(len(self._failed)):
                # Taken out first: whatever cannot be looked up must not stop every sweep from now on.
                task_id, looks = self._failed.popleft()
                try:
                    expired = ended_processes.expire_lease(runtime.current(), task_id, ended=_is_gone)
                except TransientError:
                    self._failed.append((task_id, looks))
                    raise
                if looks > 1 and not expired:
                    self._failed.append((task_id, looks - 1))
            self._send_lost()
            self._withdrawals.work_off(time.monotonic())
            swept = sweeper.sweep(runtime.current(), JOB_KINDS.values(), setbacks=self._setbacks)
            send_messages(swept.messages)
        except TransientError as error:
            self._setbacks.interrupt()
            log.warning("sweep put off", reason=str(error))
        except Exception:  # a sweeper that dies of a bug would leave every job behind it standing still
            log.exception("sweep failed")
        else:
            return swept.unfinished
        return False


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False

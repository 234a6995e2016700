"""Every message the worker understands. A task calls one function and sends what it returns."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

import structlog
from celery.exceptions import Reject

from pixcrawler_worker import runtime
from pixcrawler_worker.broker import pool
from pixcrawler_worker.celery.application import app
from pixcrawler_worker.celery.sending import requests_wait, send_messages
from pixcrawler_worker.db.ledger.tables import ChunkMessage
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.domain.postgres_types import MAX_INT4, MAX_INT8
from pixcrawler_worker.errors import OutageError, UnknownJobError
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.registry import JOB_KINDS

log = structlog.get_logger()


@app.task(name=Task.SWEEP.value)
def sweep(*_: object, **__: object) -> None:
    """Sweep once, and clean up the storage of jobs that are over. Arguments mean nothing."""
    send_messages(sweeper.sweep(runtime.current(), JOB_KINDS.values()).messages)
    for kind in JOB_KINDS.values():
        try:
            kind.clean_up(runtime.current(), LIMITS)
        except Exception:  # the other kinds have files to delete, too
            log.exception("storage not cleaned up", kind=kind.table.name)


def _register(kind: AnyJobKind) -> None:
    """Add the tasks of a kind of job: start, chunk and, where the kind has them, cancel and retry."""

    def cancel(job_id: int) -> list[ChunkMessage]:
        submission.cancel(runtime.current(), kind, job_id)
        return []

    @app.task(name=str(kind.start_task))
    def start(*given: object, **named: object) -> None:
        """Plan a pending job, with its options; on one that was started do nothing."""
        with _unknown_dropped(), _put_back_in_outage():
            job_id, options = _arguments(kind, (kind.table.id_name, "options"), given, named)
            wanted = _job_id(kind, job_id)
            if wanted in runtime.current().settings.held(kind.table.name):
                submission.record(runtime.current(), kind, wanted, options)
                log.info("job not started: the settings hold it", kind=kind.table.name, job=wanted)
                return
            send_messages(submission.start(runtime.current(), kind, wanted, options))

    @app.task(name=str(kind.table.chunk_task))
    def run_chunk(*given: object, **named: object) -> None:
        """Run one chunk of a job."""
        with _unknown_dropped():
            (chunk_id,) = _arguments(kind, ("chunk_id",), given, named)
            if not _is_id(chunk_id, MAX_INT8):
                raise UnknownJobError(f"chunk of a {kind.table.name}", chunk_id)
            opened = replace(runtime.current(), requests_wait=requests_wait, is_stopping=pool.is_stopping)
            send_messages(executor.run(opened, kind, chunk_id, turns=_turns()))

    if kind.cancel_task:
        _register_transition(kind, kind.cancel_task, cancel)
    if kind.retry_task:
        _register_transition(kind, kind.retry_task, lambda job_id: submission.retry(runtime.current(), kind, job_id))


def _turns() -> executor.Turns:
    """Return what this worker may run in place of the chunk of a message: chunks of the queues that it consumes."""
    consumed = app.amqp.queues.consume_from
    kinds = [kind for kind in JOB_KINDS.values() if kind.table.queue in consumed]
    # Elsewhere than in a child of a pool, a task keeps the worker itself waiting.
    send = send_messages if pool.is_running() else None
    return executor.Turns(kinds, postpone=lambda message: send_messages([message]), send=send)


def _register_transition(kind: AnyJobKind, task: str, transition: Callable[[int], list[ChunkMessage]]) -> None:
    @app.task(name=str(task))
    def run(*given: object, **named: object) -> None:
        with _unknown_dropped(), _put_back_in_outage():
            (job_id,) = _arguments(kind, (kind.table.id_name,), given, named)
            send_messages(transition(_job_id(kind, job_id)))


def _arguments(
    kind: AnyJobKind, names: Sequence[str], given: Sequence[object], named: Mapping[str, object]
) -> Sequence[object]:
    """Return the arguments in a message, by position or by name, where anything may have written it; None for absent.

    Raises:
        UnknownJobError: when there are others: what was meant is unknown.
    """
    by_position = dict(zip(names, given, strict=False))
    # The id of a job is called `job_id`, too.
    aliases = {"job_id": names[0]} if names[0] == kind.table.id_name else {}
    by_name = {aliases.get(name, name): value for name, value in named.items()}
    if len(given) > len(names) or by_name.keys() - set(names) or by_name.keys() & by_position.keys():
        raise UnknownJobError(kind.table.name, [*given, *named])
    found = by_position | by_name
    return [found.get(name) for name in names]


def _job_id(kind: AnyJobKind, found: object) -> int:
    """Return the id of a job.

    Raises:
        UnknownJobError: when no row can have such an id.
    """
    if not _is_id(found, MAX_INT4):
        raise UnknownJobError(kind.table.name, found)
    return found


def _is_id(value: object, largest: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest


@contextlib.contextmanager
def _unknown_dropped() -> Iterator[None]:
    """Log and drop a message about a row that is not there: trying again would not bring it back."""
    try:
        yield
    except UnknownJobError as error:
        log.warning("message dropped", reason=str(error))


@contextlib.contextmanager
def _put_back_in_outage() -> Iterator[None]:
    """Put a message back into its queue while the database is unavailable: no row may know yet what it asks for.

    Each turn takes the seconds for which a transaction is tried. Messages about chunks need no such care: their rows
    are there, and sweeps send them again.
    """
    try:
        yield
    except OutageError as error:
        log.warning("message put back: the database is unavailable", reason=str(error))
        raise Reject(str(error), requeue=True) from error


for _kind in JOB_KINDS.values():
    _register(_kind)

"""The chunks of processes that are known to have ended: they do not wait for the end of their leases."""

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress

from pixcrawler_worker.db.ledger import chunks, leases
from pixcrawler_worker.db.ledger.tables import NotRunningError
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.runtime import Runtime, local_pid


def expire_lease(runtime: Runtime, task_id: str, *, ended: Callable[[int], bool]) -> bool:
    """End the lease of the chunk that a task was running when it ended badly; return whether it held one.

    That may be a chunk of another job than the one that the task was sent for.

    Args:
        runtime: connects to the database.
        task_id: the task. Another process may be at another attempt of it by now, which is left alone.
        ended: whether the process of this machine that runs the chunk has ended, or has ended the task.
    """

    def work(session: Session) -> bool:
        pids = {owner: local_pid(owner) for owner in leases.owners_of(session, task_id)}
        dead = [owner for owner, pid in pids.items() if pid is not None and ended(pid)]
        return sum(leases.expire_lease(session, owner) for owner in dead) > 0

    return transact(runtime.sessions, work)


def release_stopped(runtime: Runtime, kinds: Iterable[AnyJobKind], *, ended: Callable[[int], bool]) -> int:
    """Release the chunks of a worker that was stopped on purpose, and return how many: that is no crash of a chunk.

    Args:
        runtime: connects to the database.
        kinds: of jobs.
        ended: whether a process of this machine has ended.

    Raises:
        TransientError: when the database does not answer. Their leases expire later then.
    """
    released = 0
    for kind in kinds:
        find = functools.partial(chunks.claims, table=kind.table)
        for owner, claim in transact(runtime.sessions, find, pauses=()):
            pid = local_pid(owner)
            if pid is None or not ended(pid):
                continue
            with suppress(NotRunningError):
                transact(runtime.sessions, functools.partial(chunks.undo_claim, claim=claim), pauses=())
                released += 1
    return released

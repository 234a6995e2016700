"""Celery's commands for a running worker (`celery control`, Flower), as far as they could leave jobs waiting unseen.

These replace Celery's own of the same names. A command that would keep a worker from running chunks is rejected with
the reason in its reply; one that an operator may want (a queue that is not consumed any more) is logged as a warning.
"""

from typing import Any, TypeAlias

import structlog
from celery.worker.control import control_command

from pixcrawler_worker.domain.messages import Queue

log = structlog.get_logger()

Reply: TypeAlias = dict[str, str]


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: object = 1, **_: object) -> Reply:
    """Remove idle processes from the pool; at least one is kept."""
    wanted = _positive(n)
    if wanted is None:
        return _rejected(f"expected a number of processes of at least 1, got {n!r}")
    if rejection := _autoscaled(state, "pool_shrink"):
        return rejection
    pool = state.consumer.pool
    if wanted >= pool.num_processes:
        return _rejected(
            f"a worker needs a process: it has {pool.num_processes}, stop it with `celery control shutdown`"
        )
    removed = 0
    while removed < wanted:
        try:
            # One by one: Celery leaves the number of reserved messages as it was when only some are idle.
            pool.shrink(1)
        except ValueError:
            break
        state.consumer._update_prefetch_count(-1)
        removed += 1
    if removed < wanted:
        return _rejected(f"{removed} of {wanted} processes removed: the others are busy, try again later")
    return {"ok": "pool will shrink"}


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: object = 1, **_: object) -> Reply:
    """Add processes to the pool."""
    wanted = _positive(n)
    if wanted is None:
        return _rejected(f"expected a number of processes of at least 1, got {n!r}")
    if rejection := _autoscaled(state, "pool_grow"):
        return rejection
    state.consumer.pool.grow(wanted)
    state.consumer._update_prefetch_count(wanted)
    return {"ok": "pool will grow"}


@control_command(args=[("modules", str), ("reload", bool)], signature="[modules [reload]]")
def pool_restart(state: Any, **_: object) -> Reply:
    """Rejected: Celery would raise an error, which is a bug in the log."""
    del state
    return _rejected("the pool cannot be restarted by itself: send SIGHUP to the worker, which restarts it as a whole")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: object = None, min: object = None, **_: object) -> Reply:  # noqa: A002 - names of arguments in messages
    """Change the limits of a worker that was started with --autoscale."""
    autoscaler = state.consumer.controller.autoscaler
    if not autoscaler:
        return _rejected("the worker was not started with --autoscale")
    most, least = (None if given is None else _positive(given) for given in (max, min))
    if (max is not None and most is None) or (min is not None and least is None):
        return _rejected(f"expected numbers of processes of at least 1, got {max!r} and {min!r}")
    most, least = autoscaler.update(most, least)
    return {"ok": f"autoscale now max={most} min={least}"}


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: Any, **_: object) -> Reply:
    """Rejected: messages that wait for their turn in one worker keep its other work, and other workers, waiting."""
    del state
    return _rejected("tasks have no rate limits: set PIXCRAWLER_HOST_CONNECTIONS for hosts, or --concurrency")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(state: Any, **_: object) -> Reply:
    """Rejected: leases and deadlines of chunks are made for the time limits that there are."""
    del state
    return _rejected("time limits of tasks are fixed, because leases and deadlines of chunks depend on them")


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(state: Any, queue: object = None, **_: object) -> Reply:
    """Consume one of the service's queues again."""
    if rejection := _unknown_queue(queue):
        return rejection
    state.consumer.call_soon(state.consumer.add_task_queue, queue)
    return {"ok": f"add consumer {queue}"}


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: object = None, **_: object) -> Reply:
    """Consume a queue no longer."""
    if rejection := _unknown_queue(queue):
        return rejection
    state.consumer.call_soon(state.consumer.cancel_task_queue, queue)
    log.warning(
        "a queue is consumed no longer: its jobs wait unless another worker consumes it",
        queue=queue,
        undo=f"celery -A pixcrawler_worker control add_consumer {queue}",
    )
    return {"ok": f"no longer consuming from {queue}"}


def _positive(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def _autoscaled(state: Any, command: str) -> Reply | None:
    if state.consumer.controller.autoscaler:
        return _rejected(f"{command} is not supported with --autoscale: use `celery control autoscale`")
    return None


def _unknown_queue(queue: object) -> Reply | None:
    names = [one.value for one in Queue]
    return None if queue in names else _rejected(f"there is no queue {queue!r}: expected one of {', '.join(names)}")


def _rejected(reason: str) -> Reply:
    log.warning("remote control: command rejected", reason=reason)
    return {"error": reason}

"""What users and operators do to jobs: cancel, retry, delete, start again. Only to jobs that are set apart for it."""

from collections.abc import Callable

import psycopg
from chaos.faults.catalog import Arena, SkippedError, fault
from chaos.load import Group

from pixcrawler_worker.domain.messages import Task

#: Seconds in which a cancel or a retry takes effect, with all that happens to the services meanwhile.
_PATIENCE = 60.0
#: Seconds in which a job is waited for.
_WAIT = 6.0
_ENDED = ("completed", "failed", "cancelled")


def _claim(arena: Arena, stage: str, fate: str, *ends: str) -> Group:
    deadline = arena.now() + _WAIT
    while (group := arena.load.claim(stage, fate, *ends)) is None:
        if arena.now() > deadline or arena.ended.is_set():
            raise SkippedError(f"no job that is set apart is in its {stage}")
        arena.hold(0.1)
    return group


def _do(arena: Arena, statement: str, *values: object) -> int:
    """Execute a statement as an API does, as often as it takes; return how many rows it changed."""
    return arena.load.write(lambda connection: connection.execute(statement.encode(), values).rowcount)


def _status(arena: Arena, group: Group) -> str | None:
    def read(connection: psycopg.Connection) -> str | None:
        row = connection.execute(f"SELECT status FROM {group.stage}_jobs WHERE id = %s".encode(), (group.job,))
        found = row.fetchone()
        return None if found is None else str(found[0])

    return arena.load.write(read)


def _repeat(arena: Arena, send: Callable[[], object], done: Callable[[], bool]) -> bool:
    """Send a message again every few seconds until it took effect: the broker may have lost it."""
    deadline = arena.now() + _PATIENCE
    sent = -10.0
    while not done():
        if arena.now() > deadline or arena.ended.is_set():
            return False
        if arena.now() - sent > 5:
            sent = arena.now()
            send()
        arena.hold(0.1)
    return True


def _cancel_by_message(arena: Arena, group: Group, *, times: int = 1) -> bool:
    def send() -> None:
        for _ in range(times):
            arena.load.send(Task[f"{group.stage.upper()}_CANCEL"], group.job)

    return _repeat(arena, send, lambda: _status(arena, group) in _ENDED)


def _cancel_by_row(arena: Arena, group: Group) -> None:
    _do(
        arena,
        "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = %s AND status IN ('pending', 'running')",
        group.job,
    )


def _retry(arena: Arena, group: Group, *, times: int = 1) -> None:
    """Retry a cancelled job, which then must end as without faults."""

    def send() -> None:
        for _ in range(times):
            arena.load.send(Task[f"{group.stage.upper()}_RETRY"], group.job)

    if _repeat(arena, send, lambda: _status(arena, group) in {"pending", "running", "completed"}):
        arena.load.settle(group, restored=True)
    else:
        arena.load.settle(group, "cancelled", "failed")


@fault("cancelled by message", "jobs")
def cancel_by_message(arena: Arena) -> None:
    _cancel_by_message(arena, _claim(arena, "crawl", "cancelled by message", "cancelled"))


@fault("cancelled twice at once", "jobs")
def cancel_twice(arena: Arena) -> None:
    _cancel_by_message(arena, _claim(arena, "crawl", "cancelled twice at once", "cancelled"), times=2)


@fault("cancelled by its row", "jobs")
def cancel_by_row(arena: Arena) -> None:
    _cancel_by_row(arena, _claim(arena, "crawl", "cancelled by its row", "cancelled"))


@fault("cancelled by message and retried", "jobs", weight=2)
def cancel_and_retry(arena: Arena) -> None:
    _cancel_and_retry(arena, "crawl", "cancelled by message and retried")


def _cancel_and_retry(arena: Arena, stage: str, fate: str) -> None:
    group = _claim(arena, stage, fate, "cancelled", "failed", "running")
    _cancel_by_message(arena, group)
    arena.hold(arena.between(0, 2))
    _retry(arena, group)


@fault("cancelled by its row and retried twice at once", "jobs", weight=2)
def cancel_by_row_and_retry(arena: Arena) -> None:
    group = _claim(arena, "crawl", "cancelled by its row and retried twice at once", "cancelled", "running")
    _cancel_by_row(arena, group)
    arena.hold(arena.between(0, 2))
    _retry(arena, group, times=2)


@fault("validation cancelled by message and retried", "jobs")
def cancel_validation(arena: Arena) -> None:
    _cancel_and_retry(arena, "validation", "validation cancelled by message and retried")


@fault("export cancelled by message and retried", "jobs")
def cancel_export(arena: Arena) -> None:
    _cancel_and_retry(arena, "export", "export cancelled by message and retried")


@fault("retried although it runs", "jobs")
def retry_running(arena: Arena) -> None:
    group = arena.load.running_crawl()
    if group is None:
        raise SkippedError("no crawl runs")
    arena.load.send(Task.CRAWL_RETRY, group.job)


@fault("started again with other options", "jobs")
def start_again(arena: Arena) -> None:
    group = arena.load.running_crawl()
    if group is None:
        raise SkippedError("no crawl runs")
    arena.load.send(Task.CRAWL_START, group.job, {"urls": ["http://127.0.0.1:1/other.jpg"]})


@fault("deleted", "jobs")
def delete_job(arena: Arena) -> None:
    _do(arena, "DELETE FROM crawl_jobs WHERE id = %s", _claim(arena, "crawl", "deleted").job)


@fault("deleted with its project", "jobs")
def delete_project(arena: Arena) -> None:
    _do(arena, "DELETE FROM projects WHERE id = %s", _claim(arena, "crawl", "deleted with its project").project)


@fault("deleted with its owner", "jobs")
def delete_owner(arena: Arena) -> None:
    _do(arena, "DELETE FROM profiles WHERE id = %s", _claim(arena, "crawl", "deleted with its owner").owner)


@fault("owner deleted during the export", "jobs")
def delete_owner_of_export(arena: Arena) -> None:
    group = _claim(arena, "export", "owner deleted during the export")
    _do(arena, "DELETE FROM profiles WHERE id = %s", group.owner)


@fault("crawl deleted during its validation", "jobs")
def delete_crawl_of_validation(arena: Arena) -> None:
    group = _claim(arena, "validation", "crawl deleted during its validation")
    _do(arena, "DELETE FROM crawl_jobs WHERE id = %s", group.jobs["crawl"])


@fault("validation deleted", "jobs")
def delete_validation(arena: Arena) -> None:
    _do(arena, "DELETE FROM validation_jobs WHERE id = %s", _claim(arena, "validation", "validation deleted").job)


@fault("completed validation deleted during the export", "jobs")
def delete_completed_validation(arena: Arena) -> None:
    group = _claim(arena, "export", "completed validation deleted during the export")
    _do(arena, "DELETE FROM validation_jobs WHERE id = %s", group.jobs["validation"])


@fault("export deleted", "jobs")
def delete_export(arena: Arena) -> None:
    _do(arena, "DELETE FROM export_jobs WHERE id = %s", _claim(arena, "export", "export deleted").job)


@fault("validation ended by its row", "jobs")
def end_validation(arena: Arena) -> None:
    _end_by_row(arena, _claim(arena, "validation", "validation ended by its row", "failed"))


@fault("export ended by its row", "jobs")
def end_export(arena: Arena) -> None:
    _end_by_row(arena, _claim(arena, "export", "export ended by its row", "failed"))


def _end_by_row(arena: Arena, group: Group) -> None:
    _do(
        arena,
        f"UPDATE {group.stage}_jobs SET status = 'failed' WHERE id = %s AND status IN ('pending', 'running')",
        group.job,
    )


@fault("unknown jobs cancelled, retried and started", "jobs")
def unknown_jobs(arena: Arena) -> None:
    for task in (Task.CRAWL_CANCEL, Task.CRAWL_RETRY, Task.CRAWL_START, Task.VALIDATION_START, Task.EXPORT_START):
        arena.load.send(task, 2_000_000_000)

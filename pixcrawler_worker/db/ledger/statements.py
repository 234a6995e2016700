"""The statements that every chunk needs, as text: one for each table of jobs, made once in a process.

They are what SQLAlchemy would otherwise make of expressions, and compile, several times for each chunk. Conditions on
`state` are constants in them, by which a prepared statement finds the partial indexes.

A statement locks in the order of the ledger: the owners of the job (see `jobs.pin`), the chunk, the job last. A CTE
that locks is evaluated when the one that follows reads from it.
"""

import functools

from sqlalchemy import Table, inspect, literal_column, select
from sqlalchemy.dialects.postgresql import psycopg

from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.domain.postgres_types import MAX_INT4

_DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
_NAMES = {
    "due": "state = 'queued' AND available_at <= clock_timestamp()",
    # The same of a chunk that is found by its id, without a condition that a partial index has. A statement that was
    # prepared while there were hardly any chunks would use that index, and read all chunks that are queued later.
    # `state` is compared like that in `COMPLETE`, too.
    "found_due": "(state || '') = 'queued' AND available_at <= clock_timestamp()",
    "take": "state = 'running', attempt = attempt + 1, fence = nextval('pixcrawler.fence'), owner = %(owner)s,"
    " lease_until = clock_timestamp() + %(lease)s",
    "taken": "chunk.id, chunk.fence, chunk.attempt, chunk.max_attempts, chunk.payload, chunk.result",
    "max_dispatch_count": str(MAX_INT4),
}

_CLAIM = """
WITH pinned AS MATERIALIZED (
    {owners} WHERE {jobs}.id = (SELECT {key} FROM pixcrawler.chunks WHERE id = %(chunk)s) FOR KEY SHARE
), chosen AS MATERIALIZED (
    SELECT id, {key} AS job_id FROM pixcrawler.chunks
    WHERE id = %(chunk)s AND {found_due} AND attempt < max_attempts AND EXISTS (SELECT FROM pinned)
    FOR NO KEY UPDATE
), counted AS (
    UPDATE {jobs} AS job SET {active} updated_at = clock_timestamp()
    FROM chosen WHERE job.id = chosen.job_id AND job.status = 'running'
    RETURNING job.id
)
UPDATE pixcrawler.chunks AS chunk SET {take}
FROM chosen JOIN counted ON counted.id = chosen.job_id
WHERE chunk.id = chosen.id
RETURNING {taken}, chosen.job_id
"""
_CLAIM_UNDISPATCHED = """
WITH chosen AS MATERIALIZED (
    SELECT id FROM pixcrawler.chunks
    WHERE {key} = %(job)s AND {due} AND attempt < max_attempts AND dispatched_at IS NULL AND NOT ({others})
    ORDER BY seq LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE pixcrawler.chunks AS chunk SET {take}
FROM chosen WHERE chunk.id = chosen.id
RETURNING {taken}
"""
_LOOK = """
SELECT {key}, {due} AND attempt < max_attempts,
    (SELECT id FROM pixcrawler.chunks WHERE state = 'running' AND owner = %(owner)s), {others}
FROM pixcrawler.chunks WHERE id = %(chunk)s
"""
_OTHERS = "EXISTS (SELECT FROM {jobs} WHERE status = 'running' AND id <> {job})"
_DISPATCH = """
WITH chosen AS MATERIALIZED (
    SELECT id FROM pixcrawler.chunks WHERE {key} = %(job)s AND {due} AND dispatched_at IS NULL
    ORDER BY seq LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE pixcrawler.chunks AS chunk
SET dispatched_at = clock_timestamp(), dispatch_count = least(dispatch_count, {max_dispatch_count} - 1) + 1
FROM chosen WHERE chunk.id = chosen.id
RETURNING chunk.id, chunk.task_id
"""
_LOCK_CHUNK = """
WITH pinned AS MATERIALIZED ({owners} WHERE {jobs}.id = %(job)s FOR KEY SHARE)
SELECT state, fence, error FROM pixcrawler.chunks
WHERE id = %(chunk)s AND (SELECT count(*) FROM pinned) >= 0
FOR NO KEY UPDATE
"""
_COUNT = """
UPDATE {jobs} SET {gained}
    active_chunks = active_chunks + %(active)s,
    completed_chunks = completed_chunks + %(completed)s,
    failed_chunks = failed_chunks + %(failed)s,
    progress = greatest(progress, least(99, 99 * (completed_chunks + failed_chunks + %(completed)s + %(failed)s)
        / greatest(total_chunks, 1))),
    updated_at = clock_timestamp()
WHERE id = %(job)s AND status = %(expected)s {within}
RETURNING total_chunks - completed_chunks - failed_chunks
"""

#: Complete the chunk `chunk` if `fence` is that of its claim. Returns its id.
COMPLETE = """
UPDATE pixcrawler.chunks SET state = 'completed', result = %(result)s, lease_until = NULL, error = NULL
WHERE id = %(chunk)s AND (state || '') = 'running' AND fence = %(fence)s
RETURNING id
"""
# The job's row is locked last: nothing but the COMMIT follows.
_FINISH = """
WITH completed AS ({complete}), counted AS (
    UPDATE {jobs} SET {gained}
        active_chunks = active_chunks + %(active)s,
        completed_chunks = completed_chunks + 1,
        progress = greatest(progress, least(99, 99 * (completed_chunks + failed_chunks + 1)
            / greatest(total_chunks, 1))),
        updated_at = clock_timestamp()
    WHERE id = %(job)s AND status = 'running' AND EXISTS (SELECT FROM completed) {within}
    RETURNING total_chunks - completed_chunks - failed_chunks AS open_chunks
)
SELECT EXISTS (SELECT FROM completed), (SELECT open_chunks FROM counted) {or_error}
"""
#: An error unless the statement has done all that it was to do.
_OR_ERROR = ", 1 / (SELECT count(*) FROM counted)"


@functools.cache
def claim(table: JobTable) -> str:
    """Claim the chunk `chunk` for `owner`, and count it in its job: both or, without a row, neither.

    Returns the chunk and `job_id`.
    """
    return _made(table, _CLAIM, active="active_chunks = active_chunks + 1," if table.has("active_chunks") else "")


@functools.cache
def claim_undispatched(table: JobTable, served: tuple[JobTable, ...]) -> str:
    """Claim the first due chunk of the job `job` that no message was sent for, without counting it in the job.

    Returns the chunk; nothing while other jobs of the kinds `served` run. Chunks that are locked are skipped, which is
    what allows this after others were locked.
    """
    return _made(table, _CLAIM_UNDISPATCHED, others=" OR ".join(_others(table, "%(job)s", served)))


@functools.cache
def look(table: JobTable, served: tuple[JobTable, ...]) -> str:
    """Return the job of the chunk `chunk`, whether it can be claimed, and the chunk that `owner` has claimed already.

    After these, for each of the kinds `served`, whether jobs of it run besides that one.
    """
    return _made(table, _LOOK, others=", ".join(_others(table, f"chunks.{table.id_name}", served)))


@functools.cache
def dispatch(table: JobTable) -> str:
    """Note for at most `limit` due chunks of the job `job`, in their order, that a message is sent for them now.

    Returns `id` and `task_id`. Chunks that are locked are skipped.
    """
    return _made(table, _DISPATCH)


@functools.cache
def lock_chunk(table: JobTable) -> str:
    """Lock the chunk `chunk` of the job `job`. Returns `state`, `fence` and `error`."""
    return _made(table, _LOCK_CHUNK)


@functools.cache
def count(table: JobTable, gains: tuple[str, ...], limited: tuple[str, ...]) -> str:
    """Add `active`, `completed` and `failed`, and the gain of each column, to the job `job` with the status `expected`.

    Returns the number of open chunks. Without a row, the job has another status, or a limited column would exceed its
    limit.
    """
    return _made(table, _COUNT, **_gains(table, gains, limited))


@functools.cache
def finish(table: JobTable, gains: tuple[str, ...], limited: tuple[str, ...], *, or_error: bool = False) -> str:
    """Complete the chunk `chunk` with the fence `fence`, and count it, `active` and the gains in the running job `job`.

    Returns whether the chunk was running with that fence, and the number of open chunks, NULL as in `count`. Roll back
    unless both was done; with `or_error`, it is a division by zero then.
    """
    parts = _gains(table, gains, limited) | {"or_error": _OR_ERROR if or_error else ""}
    return _made(table, _FINISH, complete=COMPLETE, **parts)


def _gains(table: JobTable, gains: tuple[str, ...], limited: tuple[str, ...]) -> dict[str, str]:
    return {
        "gained": "".join(f"{name} = {name} + %(gain_{name})s, " for name in gains),
        "within": "".join(f"AND {name} + %(gain_{name})s <= {table.limits[name]} " for name in limited),
    }


def _others(table: JobTable, job: str, served: tuple[JobTable, ...]) -> list[str]:
    """Return for each kind the condition that jobs of it run besides one of the kind `table`."""
    return [_OTHERS.format(jobs=_jobs(one), job=job if one is table else "0") for one in served] or ["FALSE"]


def _jobs(table: JobTable) -> str:
    jobs = inspect(table.model).local_table
    assert isinstance(jobs, Table)
    return jobs.fullname


def _made(table: JobTable, template: str, **parts: str) -> str:
    """Return a statement for a table, made of names that the code declares and of nothing else."""
    # A row of everything that a job belongs to, from the top down.
    owners = str(select(literal_column("1")).select_from(table.owners).compile(dialect=_DIALECT))
    return template.format(key=table.id_name, jobs=_jobs(table), owners=owners, **_NAMES, **parts)

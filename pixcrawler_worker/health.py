"""Checks of all that the service needs, from its settings and database to the decoder of images."""

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis

from pixcrawler_worker import error_reports, settings_report, tracing
from pixcrawler_worker.broker import quarantine, queues, rights, workers
from pixcrawler_worker.db import grants, job_counts, revisions, server, session, sizes
from pixcrawler_worker.db.job_counts import JobCounts
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.domain.messages import Queue
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.masking import mask_url
from pixcrawler_worker.runtime import source_config
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.storage.facade import Storage

#: Largest accepted difference to the database's clock: with more, the logs of both cannot be compared.
_MAX_CLOCK_SKEW_SECONDS = 5.0
#: Seconds after which what waits is worth a word, and sweeps after which a lease that expired is.
_LONG, _MAX_SWEEPS = 900.0, 5
#: Seconds for a connection to what takes traces and reports.
_CONNECT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `detail` is one line for people."""

    name: str
    ok: bool
    detail: str


def require_migrated(settings: Settings) -> None:
    """Return if the database is at the migration that this version needs, else raise.

    Raises:
        PermanentError: when it is at another one; the message says what to do.
        TransientError: when the database does not answer.
    """
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        found = server.revision(engine)
    finally:
        engine.dispose()
    if found is None:
        raise PermanentError("the database has no tables yet: run `pixcrawler db upgrade`")
    if found != revisions.head():
        raise PermanentError(
            f"the database is at migration {found}, this version needs {revisions.head()}: run `pixcrawler db upgrade`"
        )


def require_rights(settings: Settings) -> None:
    """Return if the database takes writes and its role has the rights of a worker, else raise.

    Raises:
        PermanentError: when the role lacks rights; the message has the statements that grant them.
        TransientError: when the database does not answer, or takes no writes.
    """
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        grants.require(engine)
        server.require_writable(engine)
    finally:
        engine.dispose()


def require_broker_rights(settings: Settings) -> None:
    """Return if the user of the broker has the rights of a worker, or the broker does not answer, else raise.

    Raises:
        PermanentError: when rights are missing; the message names them.
    """
    with contextlib.suppress(TransientError):
        rights.require(settings.require_broker())


def run_checks(settings: Settings, tables: Collection[JobTable] = ()) -> list[CheckResult]:
    """Return the results of all checks; a check that fails does not keep the others from running.

    Workers are asked through the broker, and what waits is in tables: without these, there is nothing to say of them.

    Args:
        settings: of the process.
        tables: of the kinds of jobs whose queue is checked.
    """
    broker = _check("broker", lambda: _broker(settings))
    stored = [
        _check("database", lambda: _database(settings)),
        _check("migrations", lambda: _migrations(settings)),
    ]
    has_tables = all(result.ok for result in stored)
    return [
        _check("settings", _names),
        *stored,
        _check("clock", lambda: _clock(settings)),
        *([_check("queue", lambda: _queue(settings, tables))] if tables and has_tables else []),
        broker,
        *([_check("workers", lambda: _workers(settings))] if broker.ok else []),
        _check("storage", lambda: _storage(settings)),
        _check("sources", lambda: _sources(settings)),
        _check("decoder", _decoder),
        *([_check("traces", lambda: _traces(settings))] if settings.otlp_endpoint else []),
        *([_check("error reports", lambda: _error_reports(settings))] if settings.sentry_dsn else []),
    ]


def _check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, ok=True, detail=check())
    except (PermanentError, TransientError) as error:
        return CheckResult(name, ok=False, detail=str(error))


def _names() -> str:
    unknown = settings_report.unknown(protocol.SOURCES.installed())
    typos = [f"unknown setting {name}, did you mean {nearest}?" for name, nearest in unknown.items() if nearest]
    if typos:
        raise PermanentError("; ".join(typos))
    return f"unknown settings, ignored: {', '.join(unknown)}" if unknown else "every name is known"


def _database(settings: Settings) -> str:
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        found = f"PostgreSQL {server.version(engine)}"
        server.require_writable(engine)
        grants.require(engine)
        if exposed := grants.exposed(engine):
            raise PermanentError(f"{exposed[0]}, without row level security: run `pixcrawler db upgrade`")
        notable = [one for one in sizes.ids(engine) if one.used >= sizes.NOTABLE]
        if notable and notable[0].used >= sizes.CRITICAL:
            raise PermanentError(
                f"{notable[0].limit - notable[0].last:,} ids are left for {notable[0].column}: see docs/operations.md"
            )
        notes = [f"{one.column} has used {one.used:.0%} of its ids" for one in notable]
        if server.is_pooled(engine):
            notes.append("through a pooler")
        return ", ".join([found, *notes])
    finally:
        engine.dispose()


def _migrations(settings: Settings) -> str:
    require_migrated(settings)
    return f"at {revisions.head()}, the newest"


def _clock(settings: Settings) -> str:
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        skew = server.now(engine) - time.time()
    finally:
        engine.dispose()
    if abs(skew) > _MAX_CLOCK_SKEW_SECONDS:
        raise PermanentError(f"the clock of this machine is {skew:+.0f} s off the database's: synchronize it with NTP")
    return f"within {_MAX_CLOCK_SKEW_SECONDS:.0f} s of the database's"


def _queue(settings: Settings, tables: Collection[JobTable]) -> str:
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        found = job_counts.read(engine, tables)
    finally:
        engine.dispose()
    return queue_report(found, sweep_seconds=settings.sweep_seconds)


def queue_report(found: JobCounts, *, sweep_seconds: float) -> str:
    """Return one line about jobs and chunks that wait, and what to do when they wait for long.

    Args:
        found: how many there are, and how long the oldest ones have waited.
        sweep_seconds: between two sweeps of a worker.

    Raises:
        PermanentError: when chunks are due and none runs, or no worker sweeps; the message says what to do.
    """
    pending = {kind: count for (kind, state), count in found.jobs.items() if state == JobStatus.PENDING and count}
    queued = {kind: count for (kind, state), count in found.chunks.items() if state == ChunkState.QUEUED and count}
    running = sum(count for (_, state), count in found.chunks.items() if state == ChunkState.RUNNING)
    overdue, waited = max(found.oldest_queued.values(), default=0), max(found.oldest_pending.values(), default=0)
    counts = [
        _waiting(pending, "pending job", found.oldest_pending, "the oldest for"),
        _waiting(queued, "queued chunk", found.oldest_queued, "the oldest due for") if queued else "no queued chunk",
        f"{running} running",
    ]
    line = ", ".join(filter(None, counts))
    if found.left_out:
        line += f" (not read in time: {', '.join(sorted(found.left_out))})"
    if (found.oldest_expired or 0) > _MAX_SWEEPS * sweep_seconds + _LONG:
        raise PermanentError(
            f"{line}; a lease expired {_age(found.oldest_expired or 0)} ago, and no sweep took its chunk back:"
            " start a worker, or see its log for what the sweep fails at"
        )
    if overdue > _LONG and not running:
        raise PermanentError(
            f"{line}: nothing runs; start a worker that consumes the queue, or see its log. `pixcrawler jobs list` has"
            " the jobs"
        )
    if overdue > _LONG:
        line += "; add workers if their CPUs are busy, see `pixcrawler jobs show` for what hosts delay"
    if waited > _LONG:
        line += (
            "; a job that stays pending has no start message: send it again, or set PIXCRAWLER_START_PENDING=true."
            " `pixcrawler jobs list` has the jobs"
        )
    return line


def _waiting(counts: Mapping[str, int], what: str, ages: Mapping[str, float], since: str) -> str:
    total = sum(counts.values())
    if not total:
        return ""
    oldest = max(counts, key=lambda kind: ages.get(kind, 0))
    return f"{total:,} {what}{'s' if total > 1 else ''} ({since} {_age(ages.get(oldest, 0))}, {oldest})"


def _age(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _broker(settings: Settings) -> str:
    rights.require(settings.require_broker())
    count, newest = quarantine.read(settings.require_broker(), limit=1)
    try:
        with closing(quarantine.connect(settings.require_broker())) as client:
            # INFO, because hosted services reject CONFIG.
            info: Any = client.info()
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    policy = info.get("maxmemory_policy", "unknown")
    if policy not in {"noeviction", "unknown"}:
        raise PermanentError(f"Redis may drop messages: set maxmemory-policy to noeviction, not {policy}")
    if 0 < info.get("maxmemory", 0) <= info.get("used_memory", 0):
        raise PermanentError("Redis is full, and workers wait until it has room: raise its maxmemory or remove data")
    version = f"Redis {info.get('redis_version', 'of an unknown version')}"
    return f"{version}; {quarantine.summary(count, newest)}" if count else version


def _workers(settings: Settings) -> str:
    broker = settings.require_broker()
    lengths = queues.waiting(broker)
    by_queue = ", ".join(f"{name} {count}" for name, count in lengths.items())
    count = sum(lengths.values())
    messages = f"{count} message{'s wait' if count > 1 else ' waits'} ({by_queue})" if count else "no message waits"
    consumed = workers.consumed_queues(broker)
    served = frozenset().union(*consumed.values())
    missing = [queue.value for queue in Queue if queue.value not in served]
    start = "start one with `celery -A pixcrawler_worker worker`"
    if len(missing) == len(Queue):
        raise PermanentError(f"no worker responds, and {messages}: {start}")
    if missing:
        raise PermanentError(
            f"no worker consumes {', '.join(missing)}, and {messages}: {start}, or name these queues after its -Q, too"
        )
    names = sorted(worker for worker, names in consumed.items() if names & {queue.value for queue in Queue})
    return f"{len(names)} consuming all queues ({', '.join(names)}); {messages}"


def _storage(settings: Settings) -> str:
    async def write_and_read(storage: Storage) -> None:
        key = f"health/{uuid.uuid4()}"
        await storage.put(key, b"pixcrawler")
        content = await storage.get(key)
        await storage.delete([key])
        if content != b"pixcrawler":
            raise PermanentError(f"{storage.url(key)} reads differently from what was written")

    asyncio.run(write_and_read(Storage(settings.storage())))
    return f"{mask_url(settings.storage())} can be written and read"


def _sources(settings: Settings) -> str:
    usable = [
        name for name in protocol.SOURCES.installed() if not protocol.look_at(name, source_config(settings, name))[1]
    ]
    return f"usable: {', '.join(usable)}"


def _decoder() -> str:
    async def layers() -> dict[str, str]:
        async with aclosing(Decoder(Limits())) as decoder:
            return await decoder.sandbox()

    found = asyncio.run(layers())
    in_force = [name for name, why in found.items() if not why]
    missing = [f"{name} ({why})" for name, why in found.items() if why]
    confined = f"its sandbox has {', '.join(in_force)}" if in_force else "it has no sandbox"
    return f"{confined}; not on this machine: {', '.join(missing)}" if missing else confined


def _traces(settings: Settings) -> str:
    endpoint = settings.secret("otlp_endpoint") or ""
    tracing.require(endpoint)
    _connect(endpoint)
    return f"are sent to {mask_url(endpoint)}"


def _error_reports(settings: Settings) -> str:
    dsn = settings.secret("sentry_dsn") or ""
    error_reports.require(dsn)
    _connect(dsn)
    return f"are sent to {mask_url(dsn)}"


def _connect(url: str) -> None:
    """Return if the host of a URL accepts connections, else raise `TransientError`."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise TransientError(f"{parts.hostname}:{port} cannot be connected to: {error.strerror or error}") from error

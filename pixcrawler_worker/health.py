"""Whether everything that the service needs is there and fits."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import redis

from pixcrawler_worker import settings as configuration
from pixcrawler_worker.db import checks, migrate, session
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.runtime import source_config
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.storage import Storage

#: A worker whose clock is further off than this writes logs that nobody can line up with the database's.
_CLOCK_SECONDS = 5.0
#: How long a service has to answer.
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: its name, whether all is well, and a line for people."""

    name: str
    well: bool
    detail: str


def require_migrated(settings: Settings) -> None:
    """Return when the database has the tables that this version needs.

    Raises:
        PermanentError: when it does not; the message says what to do.
        TransientError: when it does not answer.
    """
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        found = checks.revision(engine)
    finally:
        engine.dispose()
    if found is None:
        raise PermanentError("the database has no tables yet: run `pixcrawler db upgrade`")
    if found != migrate.head():
        raise PermanentError(
            f"the database is at migration {found}, this version needs {migrate.head()}: run `pixcrawler db upgrade`"
        )


def examine(settings: Settings) -> list[Finding]:
    """Check settings, database, migrations, clock, broker, storage and sources, each for itself."""
    return [
        _finding("settings", _names),
        _finding("database", lambda: _database(settings)),
        _finding("migrations", lambda: _migrations(settings)),
        _finding("clock", lambda: _clock(settings)),
        _finding("broker", lambda: _broker(settings)),
        _finding("storage", lambda: _storage(settings)),
        _finding("sources", lambda: _sources(settings)),
    ]


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, well=True, detail=check())
    except (PermanentError, TransientError) as error:
        return Finding(name, well=False, detail=str(error))


def _names() -> str:
    unknown = configuration.unknown(protocol.SOURCES.installed())
    slips = [f"{name} means nothing here, did you mean {near}?" for name, near in unknown.items() if near]
    if slips:
        raise PermanentError("; ".join(slips))
    return f"not ours, ignored: {', '.join(unknown)}" if unknown else "every name is known"


def _database(settings: Settings) -> str:
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        return f"PostgreSQL {checks.server_version(engine)}"
    finally:
        engine.dispose()


def _migrations(settings: Settings) -> str:
    require_migrated(settings)
    return f"at {migrate.head()}, the newest"


def _clock(settings: Settings) -> str:
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        behind = checks.now(engine) - time.time()
    finally:
        engine.dispose()
    if abs(behind) > _CLOCK_SECONDS:
        raise PermanentError(f"this machine's clock is {behind:+.0f} s off the database's: set it by NTP")
    return f"within {_CLOCK_SECONDS:.0f} s of the database's"


def _broker(settings: Settings) -> str:
    try:
        server = redis.Redis.from_url(
            _redis_url(settings.require_broker()),
            socket_timeout=_PATIENCE_SECONDS,
            socket_connect_timeout=_PATIENCE_SECONDS,
        )
        with server:
            # INFO, since hosted services refuse CONFIG.
            about = server.info()
    except ValueError as error:
        # Its text may hold a part of the password.
        raise PermanentError("the broker's address cannot be read: redis://:password@host:6379/0") from error
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    policy = about.get("maxmemory_policy", "unknown")
    if policy not in {"noeviction", "unknown"}:
        raise PermanentError(f"Redis may drop messages: set maxmemory-policy to noeviction, not {policy}")
    return f"Redis {about.get('redis_version', 'of an unknown version')}"


def _redis_url(broker: str) -> str:
    """Return the broker's address as redis-py reads it: kombu writes sockets and databases in its own way."""
    parts = urlsplit(broker)
    if parts.scheme != "redis+socket":
        return broker
    return f"unix://{parts.path}?db={parse_qs(parts.query).get('virtual_host', ['0'])[0]}"


def _storage(settings: Settings) -> str:
    async def write_and_read(storage: Storage) -> None:
        key = f"health/{uuid.uuid4()}"
        await storage.put(key, b"pixcrawler")
        found = await storage.get(key)
        await storage.delete([key])
        if found != b"pixcrawler":
            raise PermanentError(f"{storage.url(key)} was read differently from what was written")

    asyncio.run(write_and_read(Storage(settings.storage())))
    return f"{settings.storage()} can be written and read"


def _sources(settings: Settings) -> str:
    usable = [
        name
        for name in protocol.SOURCES.installed()
        if not protocol.load(name, source_config(settings, name)).missing()
    ]
    return f"usable: {', '.join(usable)}"

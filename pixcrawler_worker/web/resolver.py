"""Names and their addresses: each name is looked up once, by the system, and remembered for a minute.

The system's resolver blocks, and a name server that stays silent blocks it for ten to thirty seconds. So a lookup has a
thread of its own, and what a domain may hold of these threads is bounded: one silent name server costs the names of
others nothing. `docs/decisions/0026-names-are-looked-up-by-the-system.md` compares it with a resolver of its own.
"""

import asyncio
import errno
import math
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

_Value = TypeVar("_Value")

#: Takes a name, gives its addresses, raises OSError; called in a thread.
Lookup = Callable[[str], list[str]]

# Seconds. What a name may resolve to is checked at every connection, so that remembering it opens nothing.
ANSWER_TTL = 60.0
# Long enough for thousands of URLs of one dead name, short enough for a job that is tried again.
FAILURE_TTL = 10.0
MAX_REMEMBERED = 10_000
# No client needs more to reach a host, and an answer may hold thousands.
_MAX_ADDRESSES = 16

MAX_LOOKUPS = 128
# Of domains whose name servers have not answered yet: the others have the rest for themselves.
MAX_LOOKUPS_OF_UNKNOWN_DOMAINS = 96
# Of one domain: at first, and once its name servers have answered.
MAX_LOOKUPS_OF_UNKNOWN_DOMAIN = 4
MAX_LOOKUPS_OF_DOMAIN = 16
# Seconds that a name waits for a thread, and between two looks for one.
_MAX_WAIT = 1.0
_LOOK = 0.1

# What getaddrinfo() leaves when it cannot open a file or get memory; EBUSY is glibc's, when it cannot open its modules.
_OUT_OF_SOMETHING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EAGAIN})

# Labels under which a country's domains are registered: `example.co.uk` is one domain, and `co.uk` is none. Where one
# is missing here, the domains below it share their bounds, and no more than that.
_REGISTRY_LABELS = frozenset(
    (
        *("ac", "ad", "co", "com", "edu", "gen", "go", "gob", "gov", "govt", "gr", "gv", "id", "ind", "info", "lg"),
        *("ltd", "me", "mil", "mod", "ne", "net", "nhs", "nom", "or", "org", "plc", "sch", "web"),
    )
)
_COUNTRY_LENGTH = 2


class LookupsBusyError(Exception):
    """No thread became free for a name that has not been looked up: nothing is said about it. It is no `OSError`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A lookup on its way."""

    name: str
    domain: str
    started: float
    is_known: bool  # its domain has answered before
    answer: "Future[_Resolved]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Resolved:
    """What a name resolved to, or why it did not, and until when that is believed."""

    until: float
    addresses: tuple[str, ...] = ()
    failure: str | None = None
    was_silent: bool = False

    def result(self) -> list[str]:
        if self.was_silent:
            raise TimeoutError
        if self.failure is not None:
            raise OSError(self.failure)
        return list(self.addresses)


class CachingResolver:
    """Looks names up for one process, over all its event loops.

    Args:
        lookup: resolves a name; called in a thread.
        patience: how long a name server may take. An answer that comes later is remembered for the next request.
        max_remembered: names, and domains, of which something is remembered; the oldest is forgotten for a new one.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        patience: timedelta,
        max_remembered: int = MAX_REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._patience = patience.total_seconds()
        self._max_remembered = max_remembered
        self._clock = clock
        # Held for a few steps at a time, never during a lookup: threads end when they want, loops come and go.
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._answers: OrderedDict[str, _Resolved] = OrderedDict()
        # Domain to the time from which its name servers are asked again: always, if they answered last.
        self._domains: OrderedDict[str, float] = OrderedDict()

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses of a name, at most 16, in the order of the system.

        Raises:
            OSError: it has none.
            TimeoutError: its name server is silent.
            LookupsBusyError: other lookups, of its domain or in all, leave no thread for it; try again later.
        """
        until = self._clock() + _MAX_WAIT
        while True:
            with self._lock:
                now = self._clock()
                answer = self._answers.get(name)
                if answer and answer.until > now:
                    return answer.result()
                running = self._running.get(name) or self._start(name, now)
            if running:
                # Its patience began with the first request for the name: a thousand others do not prolong it.
                async with asyncio.timeout(max(running.started + self._patience - now, 0)):
                    return (await asyncio.wrap_future(running.answer)).result()
            if now >= until:
                raise LookupsBusyError
            await asyncio.sleep(min(_LOOK, until - now))

    def _start(self, name: str, now: float) -> _Running | None:
        """Start a lookup, or return None while there is no thread for it.

        Raises:
            TimeoutError: the name servers of its domain have been silent.
            LookupsBusyError: all lookups of its domain have been hanging for a second.
        """
        domain = registered_domain(name)
        of_domain = [running for running in self._running.values() if running.domain == domain]
        if len(of_domain) >= MAX_LOOKUPS_OF_UNKNOWN_DOMAIN and all(
            now - running.started > self._patience for running in of_domain
        ):
            self._domains.pop(domain, None)
            raise TimeoutError
        asked_from = self._domains.get(domain, now)
        if asked_from > now:
            raise TimeoutError
        is_known = asked_from == -math.inf
        limit = MAX_LOOKUPS_OF_DOMAIN if is_known else MAX_LOOKUPS_OF_UNKNOWN_DOMAIN
        if len(of_domain) >= limit and all(now - running.started > _MAX_WAIT for running in of_domain):
            raise LookupsBusyError
        if len(of_domain) >= limit or len(self._running) >= MAX_LOOKUPS:
            return None
        unknown = sum(not running.is_known for running in self._running.values())
        if unknown >= MAX_LOOKUPS_OF_UNKNOWN_DOMAINS and not is_known:
            return None
        running = _Running(name, domain, now, is_known)
        # So that a request that is cancelled does not cancel the lookup of the others.
        running.answer.set_running_or_notify_cancel()
        try:
            threading.Thread(target=self._run, args=(running,), name=f"lookup of {name}", daemon=True).start()
        except RuntimeError:  # the system has no thread left
            return None
        self._running[name] = running
        return running

    def _run(self, running: _Running) -> None:
        try:
            found = self._lookup(running.name)[:_MAX_ADDRESSES]
        except Exception as error:  # noqa: BLE001 - a bug of the lookup reaches each request that waits for it
            if _is_of_the_name(error):
                self._note(running, [], str(error))
                return
            with self._lock:
                del self._running[running.name]
            running.answer.set_exception(error)
        else:
            self._note(running, found, None if found else "the name has no address")

    def _note(self, running: _Running, found: list[str], failure: str | None) -> None:
        now = self._clock()
        was_silent = failure is not None and now - running.started > self._patience
        ttl = ANSWER_TTL if failure is None else FAILURE_TTL
        answer = _Resolved(now + ttl, tuple(found), failure, was_silent)
        with self._lock:
            del self._running[running.name]
            self._put(self._answers, running.name, answer)
            if not was_silent:
                self._put(self._domains, running.domain, -math.inf)
            elif self._domains.get(running.domain) != -math.inf:
                self._put(self._domains, running.domain, now + FAILURE_TTL)
        running.answer.set_result(answer)

    def _put(self, entries: OrderedDict[str, _Value], key: str, value: _Value) -> None:
        entries.pop(key, None)
        entries[key] = value
        if len(entries) > self._max_remembered:
            entries.popitem(last=False)


def _is_of_the_name(error: Exception) -> bool:
    """Return whether a lookup failed for its name, and not for this machine."""
    if isinstance(error, socket.gaierror):
        return error.errno not in (socket.EAI_MEMORY, socket.EAI_SYSTEM)
    return isinstance(error, OSError) and error.errno is None


def system_lookup(name: str) -> list[str]:
    """Resolve a name as the system does, in the families this machine speaks.

    Raises:
        OSError: the name has no address; with `EMFILE`, this machine cannot look any name up.
    """
    try:
        infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        is_gai = isinstance(error, socket.gaierror)
        if error.errno == socket.EAI_MEMORY if is_gai else error.errno in _OUT_OF_SOMETHING:
            raise OSError(errno.EMFILE, f"no name can be looked up: {error}") from error
        raise
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))


def registered_domain(name: str) -> str:
    """Return the part of a name that one owner registered, as far as that can be seen without a list of all registries.

    Its name servers answer for all names below it.
    """
    labels = name.split(".")
    below_registry = len(labels[-1]) == _COUNTRY_LENGTH and len(labels) > 1 and labels[-2] in _REGISTRY_LABELS
    return ".".join(labels[-3 if below_registry else -2 :])

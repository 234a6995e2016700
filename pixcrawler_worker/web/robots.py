"""robots.txt (RFC 9309): which files of a host a crawl may request.

Anybody may serve anything as robots.txt, so bytes and rules are bounded before Protego sees them: its time and memory
grow with crawlers times rules, and its time per URL with the number of wildcards. It is given only the rules for this
crawler, and a file with more of them than can be followed closes its host.
"""

import asyncio
import functools
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol, TypeVar

from protego import Protego
from yarl import URL

from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.web.failures import without_query
from pixcrawler_worker.web.hosts import Cause, HostClosedError, key
from pixcrawler_worker.web.robots_cache import SharedRobots

T = TypeVar("T")

#: Bytes that are read of a robots.txt; the least that RFC 9309, 2.5 allows.
MAX_BYTES = 500 * 1024
#: Rules for this crawler, and wildcards (`*` and `$`) in them: at the limits, a URL of 8,000 characters takes 0.1 s.
MAX_RULES, MAX_WILDCARDS = 10_000, 2_000
#: How long what a host answers holds (RFC 9309, 2.4), and how long trouble does.
_ANSWER_HOLDS, _TROUBLE_HOLDS = timedelta(hours=24), timedelta(minutes=1)
#: Seconds before the second attempt and the third: all files of a host depend on it.
_RETRY_SECONDS = (0.5, 1.0)
#: Bounds of what one process remembers: hosts, and characters of their rules. A rule takes fifty times its length.
_MAX_HOSTS, _MAX_SIZE = 1000, 1 << 19
#: Seconds for which a file waits for the robots.txt of its host, before it is another one's turn.
_PATIENCE = 1.5
#: A body of so many bytes is parsed outside of the event loop.
_MUCH = 1 << 16

_SERVER_ERROR, _SUCCESSES = 500, range(200, 300)
#: Trouble that the images of the host would have as well: it is their reason, without a request for each. A host that
#: does not answer, or limits requests, is closed (`hosts.HostClosedError`).
_OF_HOST = frozenset({Reason.UNRESOLVED, Reason.TLS_FAILED})
#: What leads to no robots.txt at all, as a 404 does: redirects that are not followed (RFC 9309, 2.3.1.2), and addresses
#: that the images may not be requested from either.
_NONE_THERE = frozenset(
    {
        Reason.TOO_MANY_REDIRECTS,
        Reason.INSECURE_REDIRECT,
        Reason.BAD_URL,
        Reason.FORBIDDEN_ADDRESS,
        Reason.FORBIDDEN_PORT,
    }
)

_USER_AGENT, _RULES = "user-agent", frozenset({"allow", "disallow", "crawl-delay"})
#: The fields that are read, with the spellings that Protego knows.
_FIELDS = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), _USER_AGENT),
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"), "disallow"),
    "allow": "allow",
    **dict.fromkeys(("crawl-delay", "crawl delay"), "crawl-delay"),
}
_PRODUCT_TOKEN = re.compile("[A-Za-z_-]+")
_CLOSED = "User-agent: *\nDisallow: /"


class Read(Protocol):
    """Sends the request for a robots.txt."""

    async def __call__(
        self, url: str, *, max_bytes: int, before_hop: Callable[[URL], Awaitable[None]]
    ) -> tuple[int, bytes]:
        """Return status and body, of which at most `max_bytes` are read.

        Raises:
            RejectedError: when there is no response.
            HostClosedError: when the host is to be left alone for a while.
        """


class Rules:
    """The rules of one robots.txt for this crawler.

    Args:
        text: as `for_agent` returns it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parsed = Protego.parse(text)

    def allow(self, target: URL) -> bool:
        """Return whether a URL may be requested."""
        return self._parsed.can_fetch(str(target), "*")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a host.

    Attributes:
        rules: its rules; none while there is trouble.
        trouble: the reason and the detail with which its files are rejected.
        is_answer: whether it said so itself.
        expires: when it has to be asked again.
    """

    rules: Rules
    trouble: tuple[Reason, str] | None
    is_answer: bool
    expires: float

    @property
    def is_out_of_reach(self) -> bool:
        """Whether its files cannot be requested either."""
        return self.trouble is not None and self.trouble[0] in _OF_HOST

    @property
    def size(self) -> int:
        return len(self.rules.text)


@dataclass(frozen=True, slots=True)
class _RobotsReading:
    """A robots.txt that is being read, and since when."""

    task: "asyncio.Task[_Known]"
    begun: float


class Robots:
    """The robots.txt of each host, requested once a day, however many of its files are waiting.

    Args:
        read: sends the request.
        agent: the User-Agent that is sent; its product token is what rules are addressed to.
        shared: what other workers know; None when there are none.
        clock: seconds that only grow.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        read: Read,
        *,
        agent: str,
        shared: SharedRobots | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._read = read
        self._agent = product_token(agent)
        self._shared = shared
        self._clock = clock
        self._sleep = sleep
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._size = 0
        self._reading: dict[str, _RobotsReading] = {}

    async def check(self, target: URL) -> None:
        """Return when a file may be requested. The first questions about a host wait for its robots.txt, for a second.

        Raises:
            RejectedError: `ROBOTS_DISALLOWED`; `ROBOTS_UNREACHABLE` when the host has a robots.txt that it does not
                send; the reason for which the host cannot be requested at all.
            HostClosedError: the host is to be left alone for a while, or has not sent its robots.txt yet.
            TransientError: the operator's own proxy cannot be reached.
        """
        known = await self._of(target)
        if known.trouble:
            raise RejectedError(*known.trouble)
        if not known.rules.allow(target):
            raise RejectedError(Reason.ROBOTS_DISALLOWED, f"{without_query(target)} is disallowed by robots.txt")

    async def aclose(self) -> None:
        """Close the connection to what other workers know. What this process knows is kept."""
        tasks = [reading.task for reading in self._reading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._shared:
            await self._shared.aclose()

    async def _of(self, target: URL) -> _Known:
        origin = str(target.origin())
        if known := self._remembered(origin):
            return known
        reading = self._reading.get(origin)
        if reading is None:
            # A task of its own: no file waits for long on a host that does not answer.
            task = asyncio.create_task(self._find_out(target.origin()))
            reading = self._reading[origin] = _RobotsReading(task, self._clock())
            task.add_done_callback(functools.partial(self._ended, origin))
        await asyncio.wait({reading.task}, timeout=max(0.0, reading.begun + _PATIENCE - self._clock()))
        if not reading.task.done():
            raise HostClosedError(key(target), Cause.ASKED, timedelta(seconds=_PATIENCE))
        try:
            return await reading.task
        except HostClosedError as closed:
            # An error of one's own, that says nothing about the file.
            raise HostClosedError(closed.host, closed.cause, closed.wait, closed.strikes, closed.lasting) from None

    def _ended(self, origin: str, task: "asyncio.Task[_Known]") -> None:
        del self._reading[origin]
        if not task.cancelled():
            # Retrieved, because the files that waited for it may be gone.
            task.exception()

    async def _find_out(self, target: URL) -> _Known:
        origin = str(target)
        known = await self._of_others(origin) or await self._ask(target)
        before = self._known.get(origin)
        if before and before.is_answer and not known.is_answer and not known.is_out_of_reach:
            # An old copy is better than none (RFC 9309, 2.4).
            known = replace(before, expires=known.expires)
        self._remember(origin, known)
        return known

    async def _of_others(self, origin: str) -> _Known | None:
        if self._shared is None:
            return None
        found = await self._shared.get(self._key(origin))
        return None if found is None else self._answered(await _rules(found.text), found.remaining)

    async def _ask(self, origin: URL) -> _Known:
        known, may_pass = await self._attempt(origin)
        for seconds in _RETRY_SECONDS:
            if not may_pass:
                break
            await self._sleep(seconds)
            known, may_pass = await self._attempt(origin)
        if self._shared and known.is_answer:
            await self._shared.put(self._key(str(origin)), known.rules.text, _ANSWER_HOLDS)
        return known

    async def _attempt(self, origin: URL) -> tuple[_Known, bool]:
        """Request a robots.txt; return what is known then, and whether the next attempt may bring something else."""
        hop = origin

        async def before_hop(target: URL) -> None:
            nonlocal hop
            hop = target

        url = f"{origin}/robots.txt"
        try:
            status, body = await self._read(url, max_bytes=MAX_BYTES, before_hop=before_hop)
        except RejectedError as error:
            if error.reason in _NONE_THERE:
                return self._troubled(None), False
            is_of_host = error.reason in _OF_HOST and hop.origin() == origin
            reason = error.reason if is_of_host else Reason.ROBOTS_UNREACHABLE
            return self._troubled((reason, error.detail)), error.reason in PASSING
        except HostClosedError as closed:
            if closed.cause is not Cause.DOWN or hop.origin() == origin:
                raise
            # Only the host that it redirects to is away.
            return self._troubled((Reason.ROBOTS_UNREACHABLE, str(closed))), False
        if status >= _SERVER_ERROR:
            return self._troubled((Reason.ROBOTS_UNREACHABLE, f"{url} answered {status}")), True
        text = ""
        if status in _SUCCESSES:
            text = await _off_loop(for_agent, body, self._agent, size=len(body))
        return self._answered(await _rules(text), _ANSWER_HOLDS), False

    def _answered(self, rules: Rules, holds: timedelta) -> _Known:
        return _Known(rules, trouble=None, is_answer=True, expires=self._clock() + holds.total_seconds())

    def _troubled(self, trouble: tuple[Reason, str] | None) -> _Known:
        """Return that a host did not say what it allows: for now everything, or nothing because of some trouble."""
        expires = self._clock() + _TROUBLE_HOLDS.total_seconds()
        return _Known(Rules(""), trouble, is_answer=False, expires=expires)

    def _key(self, origin: str) -> str:
        return f"{self._agent}:{origin}"

    def _remembered(self, origin: str) -> _Known | None:
        known = self._known.get(origin)
        if known is None or known.expires <= self._clock():
            return None
        self._known.move_to_end(origin)
        return known

    def _remember(self, origin: str, known: _Known) -> None:
        if before := self._known.pop(origin, None):
            self._size -= before.size
        self._known[origin] = known
        self._size += known.size
        while len(self._known) > 1 and (len(self._known) > _MAX_HOSTS or self._size > _MAX_SIZE):
            _, oldest = self._known.popitem(last=False)
            self._size -= oldest.size


def product_token(agent: str) -> str:
    """Return the name by which a User-Agent is addressed, in lower case (RFC 9309, 2.2.1); "" when it has none."""
    found = _PRODUCT_TOKEN.match(agent)
    return found[0].lower() if found else ""


def for_agent(body: bytes, agent: str) -> str:
    """Return the rules of a robots.txt for one crawler, addressed to `*`: those for its name, else those for all.

    Args:
        body: of the response, whatever it is.
        agent: product token, in lower case.

    Returns:
        A robots.txt; one that closes the host when there are more rules than can be followed.
    """
    if len(body) >= MAX_BYTES:
        # Half a rule would be another one.
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
    groups: dict[str, dict[str, None]] = {}
    addressed: set[str] = set()
    is_naming = False
    for line in body.decode("utf-8-sig", "replace").splitlines():
        field, value = _field(line)
        if field == _USER_AGENT:
            # Names in a row share the rules that follow; the same name may come again later.
            addressed = addressed if is_naming else set()
            is_naming = True
            name = "*" if value.split(" ")[0] == "*" else product_token(value)
            if name and name in {"*", agent}:
                addressed.add(name)
                groups.setdefault(name, {})
        elif field in _RULES:
            is_naming = False
            if value:
                for name in addressed:
                    groups[name][f"{field}: {value}"] = None
    rules = list(groups.get(agent, groups.get("*", {})))
    wildcards = sum(rule.count("*") + rule.count("$") for rule in rules)
    if len(rules) > MAX_RULES or wildcards > MAX_WILDCARDS:
        return _CLOSED
    return "\n".join(["User-agent: *", *rules]) if rules else ""


def _field(line: str) -> tuple[str | None, str]:
    """Return the known field of a line with its value; a colon may be missing."""
    line = line.partition("#")[0].strip()
    if not line:
        return None, ""
    name, colon, value = line.partition(":")
    field = _FIELDS.get(name.strip().lower()) if colon else None
    if field:
        return field, re.sub(r"\*+", "*", value.strip())
    words = line.split(None, 2)
    for count in (1, 2):
        if field := _FIELDS.get(" ".join(words[:count]).lower()):
            return field, re.sub(r"\*+", "*", " ".join(words[count:]))
    return None, ""


async def _rules(text: str) -> Rules:
    return await _off_loop(Rules, text, size=len(text))


async def _off_loop(call: Callable[..., T], *args: object, size: int) -> T:
    return await asyncio.to_thread(call, *args) if size > _MUCH else call(*args)

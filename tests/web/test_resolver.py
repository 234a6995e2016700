import asyncio
import errno
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from downloads import LONG

from pixcrawler_worker.web.resolver import (
    ANSWER_TTL,
    FAILURE_TTL,
    MAX_LOOKUPS,
    MAX_LOOKUPS_OF_DOMAIN,
    MAX_LOOKUPS_OF_UNKNOWN_DOMAIN,
    MAX_LOOKUPS_OF_UNKNOWN_DOMAINS,
    CachingResolver,
    LookupsBusyError,
    registered_domain,
    system_lookup,
)

PATIENCE = timedelta(seconds=0.3)
ADDRESS = "93.184.215.14"


class NameServer:
    """Stands for the system's lookup: counts what it is asked, and does not answer names with `dead` until released."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.asked: Counter[str] = Counter()
        self.at_work = 0
        self.max_at_work = 0
        self.release = threading.Event()
        self._lock = threading.Lock()

    def lookup(self, name: str) -> list[str]:
        with self._lock:
            self.asked[name] += 1
            self.at_work += 1
            self.max_at_work = max(self.max_at_work, self.at_work)
        try:
            if "dead" in name:
                self.release.wait(20)
                raise OSError("no answer")
            time.sleep(self.seconds)
            if "unknown" in name:
                raise OSError("Name or service not known")
            return [ADDRESS]
        finally:
            with self._lock:
                self.at_work -= 1


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def outcome(pending: Awaitable[list[str]]) -> str:
    try:
        return ",".join(await pending)
    except (OSError, LookupsBusyError) as error:
        return type(error).__name__


async def outcomes(names: CachingResolver, *hosts: str) -> Counter[str]:
    return Counter(await asyncio.gather(*(outcome(names.addresses(host)) for host in hosts)))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_thousand_requests_for_one_name_are_one_lookup() -> None:
    server = NameServer(seconds=0.02)
    names = CachingResolver(server.lookup, patience=LONG)
    assert asyncio.run(outcomes(names, *["a.example"] * 1000)) == {ADDRESS: 1000}
    assert server.asked == {"a.example": 1}


def test_an_answer_outlives_its_event_loop_and_is_asked_again_after_a_minute() -> None:
    server, clock = NameServer(), Clock()
    names = CachingResolver(server.lookup, patience=LONG, clock=clock)
    for ahead, lookups in ((0, 1), (ANSWER_TTL - 5, 1), (ANSWER_TTL + 1, 2)):
        clock.ahead = ahead
        asyncio.run(outcomes(names, "a.example"))
        assert server.asked["a.example"] == lookups


def test_a_name_that_does_not_exist_is_remembered_for_seconds() -> None:
    server, clock = NameServer(), Clock()
    names = CachingResolver(server.lookup, patience=LONG, clock=clock)
    assert asyncio.run(outcomes(names, *["unknown.example"] * 1000)) == {"OSError": 1000}
    assert asyncio.run(outcomes(names, "unknown.example")) == {"OSError": 1}
    assert server.asked["unknown.example"] == 1
    clock.ahead = FAILURE_TTL + 1
    asyncio.run(outcomes(names, "unknown.example"))
    assert server.asked["unknown.example"] == 2


def test_an_error_names_what_the_system_said() -> None:
    names = CachingResolver(NameServer().lookup, patience=LONG)
    for _ in range(2):
        with pytest.raises(OSError, match=r"^Name or service not known$"):
            asyncio.run(names.addresses("unknown.example"))


def test_a_name_without_an_address_is_an_error() -> None:
    names = CachingResolver(lambda _: [], patience=LONG)
    with pytest.raises(OSError, match="no address"):
        asyncio.run(names.addresses("a.example"))


def test_a_thousand_urls_of_a_dead_name_cost_one_lookup_and_one_wait() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=PATIENCE)

    async def run() -> float:
        started = time.monotonic()
        # As a worker does: 32 at a time.
        for _ in range(1000 // 32 + 1):
            assert await outcomes(names, *["dead.example"] * 32) == {"TimeoutError": 32}
        return time.monotonic() - started

    assert asyncio.run(run()) < 4  # and not 32 waits
    server.release.set()
    until(lambda: not server.at_work)
    assert asyncio.run(outcomes(names, "dead.example")) == {"TimeoutError": 1}
    assert server.asked == {"dead.example": 1}


def test_an_answer_that_comes_too_late_is_there_for_the_next_request() -> None:
    server = NameServer(seconds=0.5)
    names = CachingResolver(server.lookup, patience=PATIENCE)
    assert asyncio.run(outcomes(names, "slow.example")) == {"TimeoutError": 1}
    until(lambda: not server.at_work)
    assert asyncio.run(outcomes(names, "slow.example")) == {ADDRESS: 1}
    assert server.asked == {"slow.example": 1}


def test_a_request_that_is_cancelled_leaves_the_lookup_to_the_others() -> None:
    server = NameServer(seconds=0.1)
    names = CachingResolver(server.lookup, patience=LONG)

    async def run() -> list[str]:
        first = asyncio.ensure_future(names.addresses("a.example"))
        second = asyncio.ensure_future(names.addresses("a.example"))
        await asyncio.sleep(0.02)
        first.cancel()
        return await second

    assert asyncio.run(run()) == [ADDRESS]
    assert server.asked == {"a.example": 1}


def test_the_names_of_a_silent_name_server_hold_few_threads_and_fail_at_once_when_it_is_known() -> None:
    server, clock = NameServer(), Clock()
    names = CachingResolver(server.lookup, patience=PATIENCE * 5, clock=clock)
    dead = [f"h{number}.dead.example" for number in range(1000)]

    async def run() -> float:
        # What was never looked up may be tried again; once the name server is known to be silent, there is no use.
        assert await outcomes(names, *dead[:200]) == {
            "TimeoutError": MAX_LOOKUPS_OF_UNKNOWN_DOMAIN,
            "LookupsBusyError": 200 - MAX_LOOKUPS_OF_UNKNOWN_DOMAIN,
        }
        started = time.monotonic()
        assert await outcomes(names, *dead) == {"TimeoutError": 1000}
        return time.monotonic() - started

    assert asyncio.run(run()) < 1
    assert server.max_at_work == MAX_LOOKUPS_OF_UNKNOWN_DOMAIN
    server.release.set()
    until(lambda: not server.at_work)
    # Its threads are free again, and it is still known to be silent.
    assert asyncio.run(outcomes(names, *dead)) == {"TimeoutError": 1000}
    assert sum(server.asked.values()) == MAX_LOOKUPS_OF_UNKNOWN_DOMAIN
    clock.ahead = FAILURE_TTL + 1
    asyncio.run(outcomes(names, "new.dead.example"))
    assert server.asked["new.dead.example"] == 1


def test_a_silent_name_server_of_many_names_does_not_delay_the_names_of_others() -> None:
    server = NameServer(seconds=0.01)
    names = CachingResolver(server.lookup, patience=timedelta(seconds=10))
    dead = [f"h{number}.dead.example" for number in range(1000)]

    async def run() -> float:
        others = asyncio.ensure_future(outcomes(names, *dead))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        assert await outcomes(names, *(f"www.good{number}.example" for number in range(100))) == {ADDRESS: 100}
        took = time.monotonic() - started
        others.cancel()
        return took

    assert asyncio.run(run()) < 3
    server.release.set()


def test_names_of_a_domain_whose_lookups_hang_do_not_wait_behind_them() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=timedelta(seconds=10))

    async def run() -> float:
        others = asyncio.ensure_future(outcomes(names, *(f"h{number}.dead.example" for number in range(4))))
        await asyncio.sleep(1.1)
        started = time.monotonic()
        dead = [f"other{number}.dead.example" for number in range(100)]
        assert await outcomes(names, *dead) == {"LookupsBusyError": 100}
        others.cancel()
        return time.monotonic() - started

    assert asyncio.run(run()) < 0.8
    server.release.set()


def test_any_number_of_silent_domains_leaves_threads_to_domains_that_answer() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=PATIENCE * 3)
    assert asyncio.run(outcomes(names, "known.example")) == {ADDRESS: 1}

    async def run() -> None:
        others = asyncio.ensure_future(outcomes(names, *(f"www.dead{number}.example" for number in range(400))))
        await asyncio.sleep(0.1)
        assert await outcomes(names, "www.known.example", "img.known.example") == {ADDRESS: 2}
        assert await others == {
            "TimeoutError": MAX_LOOKUPS_OF_UNKNOWN_DOMAINS,
            "LookupsBusyError": 400 - MAX_LOOKUPS_OF_UNKNOWN_DOMAINS,
        }
        assert await outcomes(names, "www.unheard-of.example") == {"LookupsBusyError": 1}

    asyncio.run(run())
    assert server.max_at_work - MAX_LOOKUPS_OF_UNKNOWN_DOMAINS in (0, 1, 2)
    server.release.set()
    until(lambda: not server.at_work)
    assert asyncio.run(outcomes(names, "www.heard-of.example")) == {ADDRESS: 1}


def test_there_are_no_more_threads_than_the_limit() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=timedelta(seconds=2))
    known = [f"d{number}.example" for number in range(12)]
    assert asyncio.run(outcomes(names, *known)) == {ADDRESS: 12}
    dead = [f"dead{number}.{domain}" for domain in known for number in range(20)]
    assert asyncio.run(outcomes(names, *dead)) == {"TimeoutError": MAX_LOOKUPS, "LookupsBusyError": 240 - MAX_LOOKUPS}
    assert server.max_at_work == MAX_LOOKUPS
    server.release.set()


def test_a_domain_whose_name_servers_answer_may_have_more_lookups_at_once() -> None:
    server = NameServer(seconds=0.05)
    names = CachingResolver(server.lookup, patience=timedelta(seconds=5))
    assert asyncio.run(outcomes(names, *(f"h{number}.a.example" for number in range(100)))) == {ADDRESS: 100}
    assert MAX_LOOKUPS_OF_UNKNOWN_DOMAIN < server.max_at_work <= MAX_LOOKUPS_OF_DOMAIN


def test_a_domain_that_answers_is_not_given_up_for_one_name_that_hangs() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=PATIENCE)
    assert asyncio.run(outcomes(names, "www.a.example")) == {ADDRESS: 1}
    assert asyncio.run(outcomes(names, "dead.a.example")) == {"TimeoutError": 1}
    assert asyncio.run(outcomes(names, "img.a.example")) == {ADDRESS: 1}
    server.release.set()
    until(lambda: not server.at_work)
    assert asyncio.run(outcomes(names, "cdn.a.example")) == {ADDRESS: 1}


def test_a_bug_of_the_lookup_reaches_each_request_and_is_not_remembered() -> None:
    calls: list[str] = []

    def broken(name: str) -> list[str]:
        calls.append(name)
        raise ValueError("a bug")

    names = CachingResolver(broken, patience=PATIENCE)
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"):
            asyncio.run(names.addresses("a.example"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EBUSY, "busy"),
        socket.gaierror(socket.EAI_MEMORY, "no"),
    ],
)
def test_trouble_of_this_machine_is_not_remembered_of_a_name(error: OSError) -> None:
    outcomes_in_turn: list[OSError | None] = [error, None]

    def lookup(_name: str) -> list[str]:
        if trouble := outcomes_in_turn.pop(0):
            raise trouble
        return [ADDRESS]

    names = CachingResolver(lookup, patience=PATIENCE)
    with pytest.raises(type(error), match=re.escape(str(error))):
        asyncio.run(names.addresses("a.example"))
    assert asyncio.run(names.addresses("a.example")) == [ADDRESS]


def test_a_name_that_the_system_does_not_know_is_remembered() -> None:
    asked: list[str] = []

    def lookup(name: str) -> list[str]:
        asked.append(name)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names = CachingResolver(lookup, patience=PATIENCE)
    for _ in range(2):
        with pytest.raises(OSError, match="Name or service not known"):
            asyncio.run(names.addresses("a.example"))
    assert asked == ["a.example"]


def test_the_oldest_is_forgotten_for_a_new_name() -> None:
    server = NameServer()
    names = CachingResolver(server.lookup, patience=PATIENCE, max_remembered=3)
    for name in ("a.example", "b.example", "c.example", "a.example", "d.example", "c.example", "a.example"):
        asyncio.run(outcomes(names, name))
    assert server.asked == {"a.example": 2, "b.example": 1, "c.example": 1, "d.example": 1}


def test_of_thousands_of_addresses_few_are_remembered() -> None:
    names = CachingResolver(lambda _: [f"93.184.{n // 250}.{n % 250}" for n in range(5000)], patience=PATIENCE)
    assert len(asyncio.run(names.addresses("a.example"))) == 16


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("localhost", "localhost"),
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("img.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("cdn.example.com.au", "example.com.au"),
        ("com.example.org", "example.org"),
        ("img.bbc.fr", "bbc.fr"),
    ],
)
def test_a_name_belongs_to_the_domain_that_was_registered(name: str, domain: str) -> None:
    assert registered_domain(name) == domain


def test_the_lookup_of_the_system_returns_each_address_once() -> None:
    assert system_lookup("127.0.0.1") == ["127.0.0.1"]


def test_the_lookup_of_the_system_reads_the_file_of_hosts() -> None:
    assert "127.0.0.1" in system_lookup("localhost")


def test_a_process_without_a_free_file_is_not_blamed_on_the_name() -> None:
    program = (
        "import errno, os, resource\n"
        "from pixcrawler_worker.web.resolver import system_lookup\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    while True: os.open(os.devnull, os.O_RDONLY)\n"
        "except OSError: pass\n"
        "try: system_lookup('localhost')\n"
        "except OSError as error: print(error.errno == errno.EMFILE)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"

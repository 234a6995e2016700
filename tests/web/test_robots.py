import asyncio
import base64
import gzip
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from downloads import policy
from fakes import hosts
from fakes.hosts import HostileServer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protego import Protego
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web import robots
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Cause, HostClosedError
from pixcrawler_worker.web.robots import Robots, Rules

T = TypeVar("T")

AGENT = "pixcrawler"
CLOSED = b"User-agent: *\nDisallow: /\n"


def rules(text: str | bytes) -> Rules:
    body = text if isinstance(text, bytes) else text.encode()
    return Rules(robots.for_agent(body, AGENT))


def allows(text: str | bytes, path: str) -> bool:
    return rules(text).allow(URL(f"https://images.example{path}", encoded=True))


# The rules of a file


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a.jpg", True),
        ("User-agent: *\nDisallow:", "/a.jpg", True),
        ("User-agent: *\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("Disallow: /", "/a.jpg", True),
        ("user-AGENT:*\ndisALLOW:/private", "/private/a.jpg", False),
        ("User-agent: *\nDisallow: /private", "/public/a.jpg", True),
        ("User-agent: *\nDisallow: /private\nAllow: /private/open", "/private/open/a.jpg", True),
        ("User-agent: *\nAllow: /\nDisallow: /*.gif$", "/a.gif", False),
        ("User-agent: *\nAllow: /\nDisallow: /*.gif$", "/a.gif?b", True),
        ("User-agent: *\nDisallow: /*size=", "/a.jpg?x&size=9", False),
        ("User-agent: *\nDisallow: /*" + "*" * 3000 + ".gif", "/a.jpg", True),
        ("User-agent: *\nDisallow: /gr%C3%BC%C3%9Fe", "/gr%c3%bc%c3%9fe.jpg", False),
        ("User-agent: *\nDisallow: /grüße", "/gr%C3%BC%C3%9Fe.jpg", False),
        ("User-agent: *\nDisallow: /a%2Fb", "/a/b", True),
        ("User-agent: PixCrawler\nDisallow: /", "/a.jpg", False),
        ("User-agent: PixCrawler/1.0\nDisallow: /", "/a.jpg", False),
        ("User-agent: PIXCRAWLER*\nDisallow: /", "/a.jpg", False),
        ("User-agent: PixCrawlerBot\nDisallow: /", "/a.jpg", True),
        ("User-agent: Pix\nDisallow: /", "/a.jpg", True),
        ("User-agent: OtherBot\nDisallow: /", "/a.jpg", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: PixCrawler\nDisallow:", "/a.jpg", True),
        ("User-agent: *\nDisallow: /a\n\nUser-agent: PixCrawler\nDisallow: /b", "/a.jpg", True),
        ("User-agent: PixCrawler\nDisallow: /b\n\nUser-agent: *\nDisallow: /a", "/b.jpg", False),
        ("User-agent: OtherBot\nUser-agent: PixCrawler\nDisallow: /", "/a.jpg", False),
        ("User-agent: PixCrawler\nSitemap: /s\n\n# x\nUser-agent: OtherBot\nDisallow: /", "/a.jpg", False),
        ("User-agent: PixCrawler\nCrawl-delay: 1\nUser-agent: OtherBot\nDisallow: /", "/a.jpg", True),
        ("User-agent: PixCrawler\nDisallow: /a\nUser-agent: x\nUser-agent: pixcrawler\nDisallow: /b", "/b", False),
        ("User-agent: * # all\nDisallow: / # everything", "/a.jpg", False),
        ("\ufeffUser-agent: *\r\nDisallow: /\r\n", "/a.jpg", False),
        ("User-agent: *\rDisallow: /", "/a.jpg", False),
        ("User agent *\nDisallow /", "/a.jpg", False),
        ("Useragent: *\nDissallow: /", "/a.jpg", False),
        (b"\xff\xfe\nUser-agent: *\nDisallow: /\xff", "/a.jpg", True),
        (b"\xff\xfe\x00\nUser-agent: *\nDisallow: /", "/a.jpg", False),
        ("<!doctype html><title>Not here</title><p>User-agent: *\nDisallow: /", "/a.jpg", True),
    ],
)
def test_the_group_of_this_crawler_decides_or_else_that_of_all(text: str | bytes, path: str, *, allowed: bool) -> None:
    assert allows(text, path) is allowed


def test_a_file_that_is_cut_ends_with_its_last_whole_line() -> None:
    half = b"User-agent: *\nDisallow: /a\nDisallow: /bbb"
    padding = b"#" * (robots.MAX_BYTES - len(half) - 1) + b"\n"
    assert not allows((padding + half).replace(b"\n", b"\r"), "/a")
    assert allows(padding + half, "/bbb")
    assert not allows(padding + half, "/a")
    assert not allows(padding[1:] + half, "/bbb"), "it is not cut"


@pytest.mark.parametrize(
    ("line", "most"), [("Disallow: /a{}\n", robots.MAX_RULES), ("Disallow: /*a{}\n", robots.MAX_WILDCARDS)]
)
def test_a_file_with_more_rules_than_can_be_followed_closes_its_host(line: str, most: int) -> None:
    def text(count: int) -> str:
        return "User-agent: *\n" + "".join(line.format(number) for number in range(count))

    assert allows(text(most), "/b.jpg")
    assert not allows(text(most + 1), "/b.jpg")
    of_others = text(most + 1).replace("*\n", "OtherBot\n", 1)
    assert allows(of_others, "/b.jpg"), "rules for other crawlers do not count"


HALF = robots.MAX_BYTES // 2
#: What takes Protego alone seconds to parse or for each URL, or tens of gigabytes.
HOSTILE = {
    "crawlers times rules": "".join(f"useragent:a{n}\n" for n in range(20_000))
    + "".join(f"allow:/{n}\n" for n in range(20_000)),
    "crawlers twice": "".join(f"useragent:a{n}\n" for n in range(17_000)) * 2,
    "crawlers that are the same": "useragent:*\n" * 20_000 + "".join(f"allow:/{n}\n" for n in range(25_000)),
    "rules": "useragent:*\n" + "".join(f"allow:/{n:x}\n" for n in range(50_000)),
    "wildcards": "useragent:*\n" + "".join(f"allow:/*a{n:x}\n" for n in range(40_000)),
    "as many wildcards as may be": "useragent:*\n" + "".join(f"allow:/*a{n:x}\n" for n in range(robots.MAX_WILDCARDS)),
    "as many rules as may be": "useragent:*\n" + "".join(f"allow:/a{n:x}\n" for n in range(robots.MAX_RULES)),
    "one rule of wildcards": "useragent:*\nallow:/" + "*a" * HALF,
    "stars": "useragent:*\nallow:/" + "*" * 2 * HALF,
    "dollars": "useragent:*\n" + "".join(f"allow:/$%{n:x}\n" for n in range(40_000)),
    "escapes": "useragent:*\nallow:/" + "%61" * (HALF // 2),
    "one line": "a" * 2 * HALF,
    "empty lines": "\n" * 2 * HALF,
    "words": "a b\n" * (HALF // 2),
    "colons": ":\n" * HALF,
    "bytes": "\x00\ufffd\u2028" * (HALF // 3),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_costs_little(text: str) -> None:
    body = text.encode()[: robots.MAX_BYTES]
    url = URL("https://images.example/" + "a" * 8000, encoded=True)
    begun = time.process_time()
    found = rules(body)
    parsed = time.process_time()
    found.allow(url)
    found.allow(url)
    matched = time.process_time()
    assert parsed - begun < 2
    assert matched - parsed < 1


NAMES = st.sampled_from(["*", "PixCrawler", "pixcrawler", "OtherBot", "Googlebot"])
PATHS = st.lists(st.sampled_from(["/", "a", "b", "*", "$", "%61", "%2f", "ü", "?", "=", ".jpg"]), max_size=6).map(
    "".join
)
LINES = st.one_of(
    NAMES.map("User-agent: {}".format),
    PATHS.map("Disallow: /{}".format),
    PATHS.map("Allow: /{}".format),
    st.just("Crawl-delay: 3"),
    st.just("# comment"),
    st.just("Sitemap: https://x/"),
    st.just(""),
)
URLS = st.lists(st.sampled_from(["/", "a", "b", "%61", "%2F", "%C3%BC", "?", "=", ".jpg"]), max_size=6).map(
    lambda parts: "https://images.example/" + "".join(parts)
)


@given(lines=st.lists(LINES, max_size=12), url=URLS)
def test_leaving_out_other_crawlers_changes_no_decision(lines: list[str], url: str) -> None:
    text = "\n".join(lines)
    whole, ours = Protego.parse(text), rules(text)
    assert ours.allow(URL(url, encoded=True)) is whole.can_fetch(url, "PixCrawler")


PARTS = [bytes([byte]) for byte in b"*: \n\r$%#/\xff\x00"]


@settings(deadline=2000)
@given(
    body=st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [b"User-agent", b"Disallow", b"Allow", b"crawl delay", b"PixCrawler", b"9" * 5000, b"\xe2\x80\xa8", *PARTS]
        ),
        max_size=30,
    ).map(b"".join),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#\\"), max_size=40),
)
@example(body=b"User-agent: *\nDisallow: /%", path="%")
def test_no_file_raises(body: bytes, path: str) -> None:
    assert rules(body).allow(URL(f"https://images.example/{path}", encoded=True)) in {True, False}


def test_the_product_token_is_the_name_of_a_user_agent() -> None:
    assert robots.product_token("PixCrawler/0.1.0 (+mailto:me@example.org)") == "pixcrawler"
    assert robots.product_token("") == robots.product_token("123") == ""


# What is known of a host


@dataclass
class Host:
    """A host that answers requests for its robots.txt with these, the last one for ever, after a while."""

    answers: list[tuple[int, bytes] | Exception | tuple[str, Exception]]
    seconds: float = 0
    asked: list[str] = field(default_factory=list)

    async def __call__(
        self, url: str, *, max_bytes: int, before_hop: Callable[[URL], Awaitable[None]]
    ) -> tuple[int, bytes]:
        assert max_bytes == robots.MAX_BYTES
        self.asked.append(url)
        await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        first, second = answer
        if isinstance(second, Exception):
            await before_hop(URL(str(first)))
            raise second
        assert isinstance(first, int)
        return first, second


class Clock:
    """Time that passes only when it is waited for."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def reason(asked: Robots, url: str = "https://images.example/a.jpg") -> Reason | None:
    try:
        await asked.check(URL(url))
    except RejectedError as error:
        return error.reason
    return None


def decided(*answers: tuple[int, bytes] | Exception | tuple[str, Exception]) -> tuple[Reason | None, int]:
    """Return why a file of a host with these answers is rejected, and how often the host was asked."""
    host, clock = Host(list(answers)), Clock()
    asked = Robots(host, agent="PixCrawler/1", clock=clock, sleep=clock.sleep)
    decision = run(reason(asked))
    assert clock.now - 1000 == (0, 0.5, 1.5)[len(host.asked) - 1]
    return decision, len(host.asked)


def test_a_host_is_asked_once_for_files_that_are_requested_at_once() -> None:
    host = Host([(200, b"User-agent: *\nDisallow: /a")], seconds=0.05)

    async def work() -> Counter[Reason | None]:
        asked = Robots(host, agent="PixCrawler/1")
        urls = [f"https://images.example/{name}{number}.jpg" for name in "ab" for number in range(50)]
        return Counter(await asyncio.gather(*(reason(asked, url) for url in urls)))

    assert run(work()) == {Reason.ROBOTS_DISALLOWED: 50, None: 50}
    assert host.asked == ["https://images.example/robots.txt"]


def test_scheme_and_port_belong_to_a_host() -> None:
    host = Host([(404, b"")])

    async def work() -> None:
        asked = Robots(host, agent="PixCrawler/1")
        for url in ("http://x.example/", "https://x.example/", "https://x.example:444/", "https://x.example:443/b"):
            await asked.check(URL(url))

    run(work())
    assert host.asked == [
        "http://x.example/robots.txt",
        "https://x.example/robots.txt",
        "https://x.example:444/robots.txt",
    ]


def test_the_others_get_the_answer_when_the_first_that_asked_is_cancelled() -> None:
    host = Host([(200, CLOSED)], seconds=0.05)

    async def work() -> tuple[Reason | None, bool]:
        asked = Robots(host, agent="PixCrawler/1")
        first, second = (asyncio.ensure_future(reason(asked)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second, first.cancelled()

    assert run(work()) == (Reason.ROBOTS_DISALLOWED, True)
    assert len(host.asked) == 1


def test_a_file_waits_a_moment_for_a_slow_robots_txt_and_then_makes_way() -> None:
    host = Host([(200, CLOSED)], seconds=4)

    async def work() -> tuple[float, Reason | None]:
        asked = Robots(host, agent="PixCrawler/1")
        begun = time.monotonic()
        with pytest.raises(HostClosedError, match="it has not sent its robots"):
            await reason(asked)
        first = time.monotonic() - begun
        begun = time.monotonic()
        with pytest.raises(HostClosedError):
            await reason(asked)
        assert time.monotonic() - begun < first, "only the first ones wait"
        await asyncio.sleep(3)
        return first, await reason(asked)

    first, found = run(work())
    assert 1 < first < 4, "it does not wait until the robots.txt is there"
    assert found is Reason.ROBOTS_DISALLOWED
    assert len(host.asked) == 1


@pytest.mark.parametrize("status", [200, 204, 206, 300, 304, 400, 401, 403, 404, 410, 451, 499])
def test_a_status_below_500_without_rules_allows_everything(status: int) -> None:
    body = b"" if status in range(200, 300) else CLOSED
    assert decided((status, body)) == (None, 1)


@pytest.mark.parametrize("status", [500, 999])
def test_a_server_error_closes_the_host_after_the_third_attempt(status: int) -> None:
    assert decided((status, b"")) == (Reason.ROBOTS_UNREACHABLE, 3)
    assert decided((status, CLOSED), (404, b"")) == (None, 2)
    assert decided((status, CLOSED), (503, CLOSED), (200, b"")) == (None, 3)


@pytest.mark.parametrize(
    ("trouble", "expected", "attempts"),
    [
        # The images would have it as well.
        (Reason.UNRESOLVED, Reason.UNRESOLVED, 1),
        (Reason.TLS_FAILED, Reason.TLS_FAILED, 1),
        # There is a robots.txt that cannot be read.
        (Reason.TIMEOUT, Reason.ROBOTS_UNREACHABLE, 1),
        (Reason.RESET, Reason.ROBOTS_UNREACHABLE, 3),
        (Reason.TRUNCATED, Reason.ROBOTS_UNREACHABLE, 3),
        (Reason.BAD_RESPONSE, Reason.ROBOTS_UNREACHABLE, 1),
        (Reason.TOO_MANY_BYTES, Reason.ROBOTS_UNREACHABLE, 1),
        # There is none, or the image has its own trouble.
        (Reason.TOO_MANY_REDIRECTS, None, 1),
        (Reason.INSECURE_REDIRECT, None, 1),
        (Reason.BAD_URL, None, 1),
        (Reason.FORBIDDEN_ADDRESS, None, 1),
        (Reason.FORBIDDEN_PORT, None, 1),
    ],
)
def test_trouble_is_the_reason_of_the_host_or_of_its_robots_txt(
    trouble: Reason, expected: Reason | None, attempts: int
) -> None:
    assert decided(RejectedError(trouble, "because")) == (expected, attempts)


def test_trouble_where_a_robots_txt_redirects_to_is_not_the_hosts() -> None:
    error = RejectedError(Reason.UNRESOLVED, "because")
    assert decided(("https://elsewhere.example/robots.txt", error)) == (Reason.ROBOTS_UNREACHABLE, 1)
    assert decided(("https://images.example/other.txt", error)) == (Reason.UNRESOLVED, 1)


@pytest.mark.parametrize("cause", Cause)
def test_a_closed_host_is_waited_for_and_one_that_a_robots_txt_redirects_to_is_not(cause: Cause) -> None:
    closed = HostClosedError("host", cause, timedelta(seconds=2))
    with pytest.raises(HostClosedError):
        decided(closed)
    elsewhere = "https://elsewhere.example/robots.txt", closed
    if cause is Cause.DOWN:
        assert decided(elsewhere) == (Reason.ROBOTS_UNREACHABLE, 1)
    else:
        with pytest.raises(HostClosedError):
            decided(elsewhere)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ((200, CLOSED), 86_400),
        ((404, b""), 86_400),
        (RejectedError(Reason.TIMEOUT, "because"), 60),
        (RejectedError(Reason.TOO_MANY_REDIRECTS, "because"), 60),
    ],
)
def test_an_answer_holds_for_a_day_and_trouble_for_a_minute(answer: Any, seconds: int) -> None:
    host, clock = Host([answer]), Clock()

    async def work() -> list[int]:
        asked = Robots(host, agent="PixCrawler/1", clock=clock, sleep=clock.sleep)
        counts = []
        for later in (0, seconds - 1, 2):
            clock.now += later
            await reason(asked)
            counts.append(len(host.asked))
        return counts

    assert run(work()) == [1, 1, 2]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((503, b""), Reason.ROBOTS_DISALLOWED),
        (RejectedError(Reason.TOO_MANY_REDIRECTS, "because"), Reason.ROBOTS_DISALLOWED),
        (RejectedError(Reason.BAD_RESPONSE, "because"), Reason.ROBOTS_DISALLOWED),
        (RejectedError(Reason.TIMEOUT, "because"), Reason.ROBOTS_DISALLOWED),
        (RejectedError(Reason.UNRESOLVED, "because"), Reason.UNRESOLVED),
        ((404, b""), None),
    ],
)
def test_rules_hold_on_while_they_cannot_be_read_again(answer: Any, expected: Reason | None) -> None:
    host, clock = Host([(200, b"User-agent: *\nDisallow: /a"), answer]), Clock()

    async def work() -> tuple[Reason | None, Reason | None]:
        asked = Robots(host, agent="PixCrawler/1", clock=clock, sleep=clock.sleep)
        await reason(asked)
        clock.now += 90_000
        return await reason(asked), await reason(asked, "https://images.example/b.jpg")

    assert run(work()) == (expected, None if expected is Reason.ROBOTS_DISALLOWED else expected)


def test_trouble_of_the_operators_proxy_is_not_of_others_and_not_kept() -> None:
    host = Host([TransientError("the proxy is away"), (200, CLOSED)])

    async def work() -> Reason | None:
        asked = Robots(host, agent="PixCrawler/1")
        with pytest.raises(TransientError):
            await reason(asked)
        return await reason(asked)

    assert run(work()) is Reason.ROBOTS_DISALLOWED


@pytest.mark.parametrize(("hosts_", "rules_of_each"), [(1500, 1), (12, 8000)])
def test_what_is_remembered_is_bounded_and_the_newest_stays(hosts_: int, rules_of_each: int) -> None:
    text = "".join(f"Disallow: /{number}\n" for number in range(rules_of_each))
    host = Host([(200, f"User-agent: *\n{text}".encode())])

    async def work() -> None:
        asked = Robots(host, agent="PixCrawler/1")
        for number in range(hosts_):
            await asked.check(URL(f"https://{number}.example/a"))
        assert len(host.asked) == hosts_
        await asked.check(URL(f"https://{hosts_ - 1}.example/a"))
        assert len(host.asked) == hosts_
        await asked.check(URL("https://0.example/a"))
        assert len(host.asked) == hosts_ + 1

    run(work())


# On the way of a download


def answer(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


PRIVATE = answer(b"User-agent: PixCrawlerTest\nDisallow: /good/private\n")


@pytest.fixture(name="serve")
def server_of_responses() -> Iterator[Callable[..., HostileServer]]:
    with ExitStack() as stack:

        def serve(**responses: bytes) -> HostileServer:
            paths = {f"/{name.replace('_txt', '.txt')}": response for name, response in responses.items()}
            return stack.enter_context(hosts.serving(responses=paths))

        yield serve


def fetch(*urls: str, respect_robots: bool = True, **changes: Any) -> Counter[Reason | Cause | None]:
    """Download URLs at once and return the reasons of those that are rejected, or why their host is closed."""

    async def one(downloader: Downloader, url: str) -> Reason | Cause | None:
        try:
            await downloader.fetch(url, respect_robots=respect_robots)
        except RejectedError as error:
            return error.reason
        except HostClosedError as closed:
            return closed.cause
        return None

    async def work() -> Counter[Reason | Cause | None]:
        downloader = Downloader(policy(**changes))
        try:
            return Counter(await asyncio.gather(*(one(downloader, url) for url in urls)))
        finally:
            await downloader.aclose()

    return run(work())


def test_what_robots_txt_disallows_is_not_requested(serve: Callable[..., HostileServer]) -> None:
    server = serve(robots_txt=PRIVATE)
    urls = [server.url(f"/good/{name}-{number}.jpg") for name in ("private", "public") for number in range(20)]
    assert fetch(*urls) == {Reason.ROBOTS_DISALLOWED: 20, None: 20}
    assert server.hits["/robots.txt"] == 1
    assert not any("private" in path for path in server.hits)
    assert "User-Agent: PixCrawlerTest/1" in server.heads["/robots.txt"]


def test_robots_txt_is_not_requested_when_it_is_not_respected(serve: Callable[..., HostileServer]) -> None:
    server = serve(robots_txt=PRIVATE)
    assert fetch(server.url("/good/private.jpg"), respect_robots=False) == {None: 1}
    assert not server.hits["/robots.txt"]


def test_where_a_redirect_leads_is_asked_too(serve: Callable[..., HostileServer]) -> None:
    other = serve(robots_txt=PRIVATE)
    server = serve(
        within=answer(b"", "Location: /good/private.jpg", status="302 Found"),
        across=answer(b"", f"Location: {other.url('/good/private.jpg')}", status="302 Found"),
        fine=answer(b"", f"Location: {other.url('/good/public.jpg')}", status="302 Found"),
        robots_txt=PRIVATE,
    )
    urls = [server.url(f"/{name}") for name in ("within", "across", "fine")]
    assert fetch(*urls) == {Reason.ROBOTS_DISALLOWED: 2, None: 1}
    assert not server.hits["/good/private.jpg"] + other.hits["/good/private.jpg"]


def test_redirects_of_many_files_at_once_do_not_wait_for_each_other(serve: Callable[..., HostileServer]) -> None:
    other = serve(robots_txt=PRIVATE)
    moved = {
        f"moved_{n}": answer(b"", f"Location: {other.url(f'/good/{n}.jpg')}", status="302 Found") for n in range(20)
    }
    server = serve(**moved)
    begun = time.monotonic()
    assert fetch(*(server.url(f"/{name}") for name in moved)) == {None: 20}
    assert time.monotonic() - begun < 4, "each had its connection, and waited until the deadline for one more"
    assert other.hits["/robots.txt"] == 1


def test_redirects_to_a_robots_txt_are_followed_and_it_holds_where_they_began(
    serve: Callable[..., HostileServer],
) -> None:
    other = serve(real=PRIVATE)
    server = serve(robots_txt=answer(b"", f"Location: {other.url('/real')}", status="301 Moved"))
    urls = [server.url("/good/private.jpg"), server.url("/good/public.jpg"), other.url("/good/private.jpg")]
    assert fetch(*urls) == {Reason.ROBOTS_DISALLOWED: 1, None: 2}


@pytest.mark.parametrize(
    "location", ["/robots.txt", "http://10.0.0.1/robots.txt", "ftp://example.com/robots.txt", "http://[/"]
)
def test_redirects_that_are_not_followed_lead_to_no_robots_txt(
    serve: Callable[..., HostileServer], location: str
) -> None:
    server = serve(robots_txt=answer(b"", f"Location: {location}", status="302 Found"))
    assert fetch(server.url("/good/1.jpg")) == {None: 1}


def test_a_robots_txt_that_aiohttp_rejects_is_read(serve: Callable[..., HostileServer]) -> None:
    server = serve(robots_txt=answer(CLOSED, "no colon"))
    assert fetch(server.url("/good/1.jpg")) == {Reason.ROBOTS_DISALLOWED: 1}


@pytest.mark.parametrize("announced", [True, False])
def test_of_a_long_robots_txt_the_first_half_megabyte_counts(*, announced: bool) -> None:

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = "Content-Length: 999999999\r\n" if announced else ""
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"/robots.txt" not in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                continue
            writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\nUser-agent: *\nDisallow: /a\n".encode())
            while not writer.is_closing():
                writer.write(b"# and so on and on\n" * 1000)
                await writer.drain()

    async def work() -> None:
        async with hosts.listening(converse) as port:
            base = f"http://127.0.0.1:{port}"
            assert await asyncio.to_thread(fetch, f"{base}/a") == {Reason.ROBOTS_DISALLOWED: 1}
            assert await asyncio.to_thread(fetch, f"{base}/b") == {None: 1}

    run(work())


@pytest.mark.parametrize(
    "comment", [b"# and so on\n" * 100_000, base64.encodebytes(random.Random(1).randbytes(600_000))]
)
def test_so_it_does_when_it_comes_as_gzip(serve: Callable[..., HostileServer], comment: bytes) -> None:
    text = gzip.compress(b"User-agent: *\nDisallow: /good/a\n" + comment.replace(b"\n", b"\n#"))
    server = serve(robots_txt=answer(text, "Content-Encoding: gzip"))
    assert fetch(server.url("/good/a.jpg"), server.url("/good/b.jpg")) == {Reason.ROBOTS_DISALLOWED: 1, None: 1}


def test_a_silent_host_costs_its_files_one_timeout() -> None:
    connections = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        del writer
        connections += 1
        await reader.read()
        await asyncio.sleep(60)

    async def work() -> float:
        async with hosts.listening(converse) as port:
            urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(40)]
            begun = time.monotonic()
            found = await asyncio.to_thread(fetch, *urls, idle_timeout=timedelta(seconds=0.5))
            assert found == {Cause.DOWN: 40}
            return time.monotonic() - begun

    assert run(work()) < 2
    assert connections == 1


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Unavailable"])
def test_a_host_that_limits_requests_is_asked_later_and_then_obeyed(status: str) -> None:
    asked: list[str] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked.append(head.split()[1].decode())
            if len(asked) == 1:
                writer.write(f"HTTP/1.1 {status}\r\nRetry-After: 0.2\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(CLOSED), CLOSED))

    async def work() -> None:
        downloader = Downloader(policy())
        async with hosts.listening(converse) as port:
            url = f"http://127.0.0.1:{port}/a.jpg"
            try:
                with pytest.raises(HostClosedError) as caught:
                    await downloader.fetch(url, respect_robots=True)
                assert caught.value.cause is Cause.LIMITED
                await asyncio.sleep(caught.value.wait.total_seconds())
                with pytest.raises(RejectedError, match="robots_disallowed"):
                    await downloader.fetch(url, respect_robots=True)
            finally:
                await downloader.aclose()

    run(work())
    assert asked == ["/robots.txt", "/robots.txt"]


def test_a_closed_port_closes_its_host() -> None:
    assert fetch(*(f"http://127.0.0.1:1/{number}.jpg" for number in range(5))) == {Cause.DOWN: 5}


def test_a_host_that_may_not_be_requested_is_not_asked(serve: Callable[..., HostileServer]) -> None:
    server = serve(robots_txt=PRIVATE)
    assert fetch(server.url("/a"), allowed_networks=()) == {Reason.FORBIDDEN_ADDRESS: 1}
    assert not server.hits

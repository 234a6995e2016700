"""What may not be requested: URLs, addresses behind names, redirects; and every way in which the worker requests.

Each way is run as the worker has it, on real sockets. What it connects to is seen in Python's audit events, which no
connect of this process escapes; `namespace.py` listens to the network as well.
"""

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from downloads import CERTIFICATE

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web import http
from pixcrawler_worker.web.addresses import DeniedError, Guard
from pixcrawler_worker.web.connect import GuardedResolver, checked_sockets, guarded_connector
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.lenient import LenientClient
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.resolver import CachingResolver

#: URLs that can be read in more than one way, or in none.
BAD_URLS = [
    # No host, or no URL at all.
    "",
    "not a url",
    "//example.com/a.jpg",
    "/a.jpg",
    "http:",
    "http:/",
    "http://",
    "http:///a.jpg",
    "http:example.com/a.jpg",
    "http:/example.com/a.jpg",
    "http:///127.0.0.1/",
    "http://:80/a.jpg",
    "http://./a.jpg",
    "http://../a.jpg",
    "http://?a.jpg",
    "http://#a.jpg",
    "://example.com/",
    # Other schemes.
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://example.com/a.jpg",
    "gopher://example.com:70/_a",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1/",
    "jar:http://example.com/a!/b.jpg",
    "unix:///var/run/docker.sock",
    "ws://example.com/",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "url:http://127.0.0.1/",
    "view-source:http://example.com/",
    "hxxp://example.com/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    # Credentials.
    "http://user@example.com/a.jpg",
    "http://user:password@example.com/a.jpg",
    "http://@example.com/a.jpg",
    "http://:@example.com/a.jpg",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://example.com%40127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://a@b@127.0.0.1/",
    "http://[::1]@/x.jpg",
    "http://example.com\uff2010.0.0.1/",
    # Backslashes.
    "http://127.0.0.1\\@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\example.com\\a.jpg",
    "http:/\\127.0.0.1/",
    "http://example.com\\.evil.example/",
    "http://example.com/a\\b.jpg",
    "\\\\127.0.0.1\\share",
    # Control characters and spaces.
    " http://example.com/a.jpg",
    "http://example.com/a.jpg\n",
    "http://example.com/a\r\nHost: evil/b.jpg",
    "http://example.com/a\tb.jpg",
    "http://example.com/a\x00b.jpg",
    "http://example.com\x00.evil.example/",
    "http://127.0.0.1\t/",
    "ht\ntp://127.0.0.1/",
    "http://127.0\r.0.1/",
    "http://example.com/a\x85b.jpg",
    "http://example.com/a\x7fb.jpg",
    "\x01http://example.com/",
    "\ufeffhttp://127.0.0.1/",
    "http://exa mple.com/a.jpg",
    "http://example.com /a.jpg",
    "http:// 127.0.0.1/",
    "http://127.0.0.1\u3000/",
    "\u00a0http://127.0.0.1/",
    # Quoted hosts.
    "http://example%2ecom/a.jpg",
    "http://%31%32%37.0.0.1/",
    "http://127%2e0%2e0%2e1/",
    "http://127.0.0.1%2f.example.com/",
    "http://127.0.0.1%23.example.com/",
    "http://127.0.0.1%00.example.com/",
    "http://%6c%6f%63%61%6c%68%6f%73%74/",
    "http://127%E3%80%820%E3%80%820%E3%80%821/",
    "http://%5B::1%5D/",
    # Brackets and zones.
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1%25lo]/",
    "http://[::1/",
    "http://::1/",
    "http://::1:80/",
    "http://]::1[/",
    "http://[[::1]]/",
    "http://[]/",
    "http://[example.com]/",
    "http://[127.0.0.1]/",
    "http://[v1.127]/",
    "http://[::1].example.com/",
    "http://[::1]example.com/",
    "http://x[::1]/",
    "http://[::ffff:127.0.0.1.]/",
    "http://[::ffff:0177.0.0.1]/",
    "http://[::ffff:127.1]/",
    "http://[1::2::3]/",
    "http://[\uff1a\uff1a1]/",
    # Names that are none.
    "http://example..com/a.jpg",
    "http://example.com../a.jpg",
    "http://.example.com/a.jpg",
    "http://127.0.0.1../",
    f"http://{'a' * 64}.example.com/",
    f"http://{'a.' * 130}com/",
    "http://exa$mple.com/",
    "http://example.com,127.0.0.1/",
    "http://example.com;127.0.0.1/",
    "http://example.com|127.0.0.1/",
    "http://example.com^127.0.0.1/",
    "http://{127.0.0.1}/",
    "http://<127.0.0.1>/",
    "http://a\u2100b.example/",
    "http://127.0.0.1\u2044@example.com/",
    "http://a_\u00df.example/",
    "http://a\u200db.example/",
    "http://1\u200b27.0.0.1/",
    "http://127.0.\u00ad0.1/",
    "http://local\u00adhost/",
    "http://xn--a.example/",
    "http://xn--0.pt/x.jpg",
    "http://www.xn--.example/",
    "http://xn--\u3002/",
    "http://xn--\u3002example/",
    "http://a.xn--a-/",
    # Ports that are none.
    "http://example.com:port/",
    "http://example.com:80:80/",
    "http://127.0.0.1:80:80/",
    "http://example.com:99999/",
    "http://example.com:65536/",
    "http://example.com:-80/",
    "http://example.com:+80/",
    "http://example.com:8 0/",
    "http://example.com:0x50/",
    "http://example.com:\uff18\uff10/",
    "http://example.com:\u0668\u0660/",
    # What no server takes.
    "http://example.com/\ud800.jpg",
    f"http://example.com/{'a' * 8192}",
]

#: URLs whose host is an address, in every spelling that some program reads as one.
SPELLED_ADDRESSES = [
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.0.0.1:80/",
    "https://127.0.0.1/",
    "https://127.0.0.1:443/",
    "HTTP://127.0.0.1/",
    "http://127.0.0.1?a.jpg",
    "http://127.0.0.1#example.com",
    "http://127.0.0.1/?@example.com",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.1./",
    "http://0x7f.1/",
    "http://0x7f.0.0.1/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0x7F000001/",
    "http://0X7F000001/",
    "http://0x0000007f000001/",
    "http://2130706433/",
    "http://02130706433/",
    "http://4294967296/",
    "http://6425673729/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://00000177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.01/",
    "http://127.000.000.001/",
    "http://127.0x0.0.1/",
    "http://127.65535/",
    "http://127.0.65535/",
    "http://383.0.0.1/",
    "http://0/",
    "http://00/",
    "http://0x/",
    "http://0x0/",
    "http://0.0/",
    "http://1/",
    "http://1.2.3/",
    "http://1.2.3.4.5/",
    "http://8.8.8.256/",
    "http://8.8.8.08/",
    "http://8.8.8.0x8/",
    "http://010.8.8.8/",
    "http://example.1/",
    "http://example.0x1/",
    "http://example.com.127/",
    "http://127\u30020\u30020\u30021/",
    "http://127\uff0e0\uff0e0\uff0e1/",
    "http://127\uff610\uff610\uff611/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://\u2460\u2461\u2466.0.0.1/",
    "http://\U0001d7cf\U0001d7d0\U0001d7d5.\U0001d7d8.\U0001d7d8.\U0001d7cf/",
    "http://127.0.0.\u00b9/",
    "http://\u2488127.0.0.1/",
    "http://\uff10\uff58\uff17\uff46.1/",
    "http://\uff12\uff11\uff13\uff10\uff17\uff10\uff16\uff14\uff13\uff13/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://[::1]/",
    "http://[::1]:80/",
    "https://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    "http://[::0.0.0.1]/",
    "http://[::FFFF:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
]

#: URLs of names that only mean something inside a network.
INTERNAL_NAMES = [
    "http://localhost/",
    "https://localhost/",
    "http://LOCALHOST./",
    "http://\u24dbocalhost/",
    "http://localho\u017ft/",
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    "http://localhost.localdomain/",
    "http://app.localhost/",
    "http://intranet/",
    "http://redis:6379/",
    "http://postgres/",
    "http://metadata/",
    "http://instance-data/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://METADATA.google.INTERNAL./computeMetadata/v1/",
    "http://host.docker.internal/",
    "http://gateway.docker.internal/",
    "http://kubernetes.default.svc/",
    "http://api.default.svc/",
    "http://api.default.svc.cluster.local/",
    "http://printer.local/",
    "http://printer.\uff4c\uff4f\uff43\uff41\uff4c/",
    "http://nas.lan/",
    "http://router.home/",
    "http://router.home.arpa/",
    "http://home.arpa./",
    "http://wiki.corp/",
    "http://wiki.intranet/",
    "http://wiki.private/",
    "http://ip6-localhost/",
    "http://com/",
    "http://\u4f8b\u3048/",
]

FORBIDDEN_PORTS = [
    "http://example.com:22/",
    "http://example.com:0/",
    "http://example.com:8080/",
    "http://example.com:6379/",
    "https://example.com:5432/",
    "http://example.com:00022/",
    "http://example.com:65535/",
    "http://8.8.8.8:8080/",
    "http://8.8.8.8:25/",
    "http://[2606:4700:4700::1111]:11211/",
    "https://b\u00fccher.example:9200/",
]

#: Addresses that are not of the public internet: what a name may not resolve to.
ADDRESSES = [
    # IPv4: the first and the last of each range, and the known ones.
    *("0.0.0.0", "0.0.0.1", "0.255.255.255", "10.0.0.0", "10.0.0.1", "10.255.255.255"),
    *("100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.0.0.2", "127.255.255.255"),
    *("169.254.0.1", "169.254.169.254", "169.254.170.2", "169.254.255.255", "168.63.129.16"),
    *("172.16.0.1", "172.17.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.0.192"),
    *("192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1"),
    *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255"),
    # IPv6: nothing, this machine, this link, this site, this organization, everybody.
    *("::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("ff02::1", "ff0e::1", "ff05::1:3"),
    # IPv6 that holds an IPv4 address: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::ffff:224.0.0.1"),
    *("::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::7f00:1"),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::1", "2002:808:808::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:0:808:808::1"),
    *("2a00:1450:4001::5efe:127.0.0.1", "2a00:1450:4001::200:5efe:10.0.0.1", "fe80::5efe:192.168.0.1"),
    # IPv6 of other special purposes, and none that was handed out.
    *("100::1", "100:0:0:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff::1", "2001:db8::1"),
    *("2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "8000::1", "e000::1"),
]

#: What a name may resolve to; in tests, nothing is ever sent there.
PUBLIC, PUBLIC_IPV6 = "93.184.215.14", "2606:4700:4700::1111"
#: Where a test has its server: allowed, so that 127.0.0.1 and everything else stay forbidden.
SERVER = "127.0.0.7"
STATUSES = (301, 302, 303, 307, 308)


def url_of(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@dataclass(frozen=True)
class Case:
    """Something that may not be requested.

    Attributes:
        url: that is requested, or redirected to.
        reason: why not.
        answers: what its name resolves to; nothing for a URL that is rejected before its name is looked up.
    """

    url: str
    reason: Reason
    answers: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return ascii(",".join(self.answers) or self.url[:60])[1:-1]


def url_cases() -> list[Case]:
    hosts = dict.fromkeys((*SPELLED_ADDRESSES, *INTERNAL_NAMES, *map(url_of, ADDRESSES)))
    return [
        *(Case(url, Reason.BAD_URL) for url in BAD_URLS),
        *(Case(url, Reason.FORBIDDEN_ADDRESS) for url in hosts),
        *(Case(url, Reason.FORBIDDEN_PORT) for url in FORBIDDEN_PORTS),
    ]


def answer_cases() -> list[Case]:
    """Names that resolve to one forbidden address, alone, after and before public ones."""
    url, denied = "http://images.example/a.jpg", Reason.FORBIDDEN_ADDRESS
    scoped = ("fe80::1%1", "fe80::1%eth0", "::1%lo")
    return [
        *(Case(url, denied, (address,)) for address in (*ADDRESSES, *scoped)),
        *(Case(url, denied, (PUBLIC, PUBLIC_IPV6, address)) for address in (*ADDRESSES, *scoped)),
        *(Case(url, denied, (address, PUBLIC)) for address in ADDRESSES),
    ]


def redirect_cases() -> list[Case]:
    """Every URL that a header can hold, and the names that resolve to one forbidden address."""
    return [case for case in (*url_cases(), *answer_cases()[: len(ADDRESSES)]) if _fits_in_a_header(case.url)]


def _fits_in_a_header(url: str) -> bool:
    # Without a scheme and a host, it is a path on the server that redirects.
    absolute = (
        "://" in url[:12] and not url.startswith(("http:///", "://", "http://?", "http://#")) and url != "http://"
    )
    return absolute and url.isprintable() and url == url.strip()


class Connects:
    """The addresses that this thread connects sockets to, while it is entered."""

    def __init__(self) -> None:
        self.addresses: list[Any] = []
        self._thread = 0

    def __enter__(self) -> Self:
        _record_connects()
        self._thread = threading.get_ident()
        _recorders.append(self)
        return self

    def __exit__(self, *_error: object) -> None:
        _recorders.remove(self)

    def hosts(self) -> set[str]:
        return {address[0] for address in self.addresses}

    def record(self, address: object) -> None:
        if threading.get_ident() == self._thread:
            self.addresses.append(address)


_recorders: list[Connects] = []


@cache  # a hook cannot be removed, so there is one
def _record_connects() -> None:
    def record(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            for recorder in _recorders:
                recorder.record(args[1])

    sys.addaudithook(record)


class Names:
    """Stands for the name servers, and remembers what was looked up."""

    def __init__(self, answers: Iterable[Sequence[str]]) -> None:
        self.looked_up: list[str] = []
        self._answers = iter(answers)
        self._last: Sequence[str] = ()

    def lookup(self, name: str) -> list[str]:
        self.looked_up.append(name)
        self._last = next(self._answers, self._last)
        if not self._last:
            raise OSError("Name or service not known")
        return list(self._last)


def policy(*allowed: str, port: int | None = None) -> Policy:
    ports = {80, 443} if port is None else {80, 443, port}
    return Policy(
        user_agent="PixCrawlerTest/1 (+mailto:tests@example.com)",
        allowed_networks=tuple(ip_network(text) for text in allowed),
        ports=frozenset(ports),
        deadline=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=3),
    )


Way = Callable[[str, Policy, Names], Awaitable[Reason | None]]


async def fetch(url: str, allowed: Policy, names: Names, tls: ssl.SSLContext | None = None) -> Reason | None:
    """As images are downloaded."""
    downloader = Downloader(allowed, lookup=names.lookup, tls=tls)
    try:
        await downloader.fetch(url)
    except RejectedError as error:
        return error.reason
    finally:
        await downloader.aclose()
    return None


async def fetch_with_robots(url: str, allowed: Policy, names: Names) -> Reason | None:
    """As images are downloaded where robots.txt is read first."""
    downloader = Downloader(allowed, lookup=names.lookup)
    try:
        await downloader.fetch(url, respect_robots=True)
    except RejectedError as error:
        return error.reason
    finally:
        await downloader.aclose()
    return None


async def search(url: str, allowed: Policy, names: Names) -> Reason | None:
    """As sources request their providers."""
    downloader = Downloader(allowed, lookup=names.lookup)
    try:
        await http.client(downloader).get(url)
    except httpx.RequestError as error:
        return error.__cause__.reason if isinstance(error.__cause__, RejectedError) else Reason.BAD_URL
    except (httpx.InvalidURL, UnicodeError):  # httpx's own opinion of a URL
        return Reason.BAD_URL
    finally:
        await downloader.aclose()
    return None


async def read_leniently(url: str, allowed: Policy, names: Names) -> Reason | None:
    """As responses are read that aiohttp cannot read."""
    guard = Guard(ports=allowed.ports, allowed_networks=allowed.allowed_networks)
    resolver = GuardedResolver(guard, CachingResolver(names.lookup, patience=allowed.lookup_timeout))
    return await _lenient(url, guard, resolver)


async def _lenient(url: str, guard: Guard, resolver: AbstractResolver) -> Reason | None:
    client = LenientClient(
        resolver=resolver,
        socket_factory=checked_sockets(guard),
        tls=None,
        connect_timeout=timedelta(seconds=3),
        idle_timeout=timedelta(seconds=3),
    )
    try:
        async with client.get(guard.target(url), ()):
            return None
    except RejectedError as error:
        return error.reason
    except OSError as error:
        return error.reason if isinstance(error, DeniedError) else Reason.UNRESOLVED


WAYS: tuple[Way, ...] = (fetch, fetch_with_robots, read_leniently, search)


async def rejections(case: Case) -> dict[str, Reason | None]:
    """Request a case in every way, and return why it was rejected; None where it was not."""
    allowed = policy()
    found: dict[str, Reason | None] = {}
    for way in WAYS:
        # What httpx mends must not resolve to anything that is allowed.
        names = Names([case.answers or ("127.0.0.1",)])
        reason = await way(case.url, allowed, names)
        if way is search and Reason.BAD_URL in (reason, case.reason):
            # httpx has an opinion of its own: it rejects spellings of addresses as bad URLs, and mends bad URLs, as a
            # port in other digits.
            reason = case.reason if reason else None
        elif not case.answers:
            assert not names.looked_up, "a URL that is rejected was looked up"
        found[way.__name__] = reason
    return found


class Rebinding(AbstractResolver):
    """Stands for a name that changes after it was checked."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=self._address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def rejections_at_connect(case: Case) -> dict[str, Reason | None]:
    """Connect to a name that was allowed and now is at another address, in both ways that there are."""
    guard, resolver = Guard(ports=frozenset({80, 443})), Rebinding(case.answers[0])
    strict: Reason | None = None
    connector = guarded_connector(guard, resolver=resolver, tls=None, keep=True)
    at_once = aiohttp.ClientTimeout(sock_connect=0.1)
    async with aiohttp.ClientSession(connector=connector, timeout=at_once) as session:
        try:
            await session.get(guard.target(case.url))
        except aiohttp.ClientConnectorError as error:
            strict = error.os_error.reason if isinstance(error.os_error, DeniedError) else Reason.CONNECT_FAILED
    return {"strict": strict, "lenient": await _lenient(case.url, guard, resolver)}


@contextlib.asynccontextmanager
async def answering(response: bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve one response at the address of the tests' server, and yield its port."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
        writer.close()

    async with await asyncio.start_server(respond, SERVER, 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


async def rejections_of_redirect(case: Case) -> dict[str, Reason | None]:
    """Follow a redirect to a case: from a response that aiohttp reads and from one that it does not, and over TLS."""
    # An internal name may be looked up where a network is allowed; what it resolves to is inside.
    answers = case.answers or ((PUBLIC,) if case.reason is Reason.FORBIDDEN_PORT else ("127.0.0.1",))
    status = STATUSES[len(case.label) % len(STATUSES)]
    found: dict[str, Reason | None] = {}
    for kind, way, odd, location in (
        ("strict", fetch, b"", case.url),
        ("lenient", fetch, b"no colon\r\n", case.url),
        ("robots", fetch_with_robots, b"", case.url),
        ("source", search, b"", case.url.removeprefix("http:")),
        ("tls", _fetch_over_tls, b"", case.url),
    ):
        head = b"HTTP/1.1 %d Found\r\n%sLocation: %s\r\n" % (status, odd, location.encode())
        tls = _listening_tls() if kind == "tls" else None
        async with answering(head + b"Content-Length: 0\r\n\r\n", tls=tls) as port:
            host = f"images.example:{port}" if tls else f"{SERVER}:{port}"
            names = Names([(SERVER,), answers] if tls else [answers])
            url = f"{'https' if tls else 'http'}://{host}/"
            found[kind] = await way(url, policy(f"{SERVER}/32"), names)
    if found["tls"] is Reason.INSECURE_REDIRECT and case.url.lower().startswith("http:"):
        # Said before the name is looked up.
        found["tls"] = case.reason
    return found


async def rejections_behind_proxy(case: Case) -> dict[str, Reason | None]:
    """Request a URL where a proxy sends the requests, at once and by a redirect; the proxy is not asked for it."""
    found: dict[str, Reason | None] = {}
    head = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n" % (case.url.encode() if _fits_in_a_header(case.url) else b"file:/")
    async with answering(head + b"Content-Length: 0\r\n\r\n") as port:
        allowed = replace(policy(), egress_proxy=f"http://{SERVER}:{port}")
        with Connects() as connects:
            found["at once"] = await fetch(case.url, allowed, Names([]))
        assert not connects.addresses
        if _fits_in_a_header(case.url):
            found["redirect"] = await fetch("http://images.example/", allowed, Names([]))
    return found


async def _fetch_over_tls(url: str, allowed: Policy, names: Names) -> Reason | None:
    return await fetch(url, allowed, names, tls=_trusting_tls())


@cache
def _listening_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@cache
def _trusting_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


#: Kinds of cases: what they are, and how each is requested in every way.
KINDS: dict[str, tuple[list[Case], Callable[[Case], Awaitable[dict[str, Reason | None]]]]] = {
    "urls": (url_cases(), rejections),
    "answers": (answer_cases(), rejections),
    "redirects": (redirect_cases(), rejections_of_redirect),
    "proxy": (url_cases(), rejections_behind_proxy),
    "rebinding": (answer_cases()[: len(ADDRESSES)], rejections_at_connect),
}


async def wrong_outcomes(kind: str) -> dict[str, dict[str, Reason | None]]:
    """Run all cases of a kind, and return those that were not rejected for their reason in every way."""
    cases, request = KINDS[kind]
    wrong: dict[str, dict[str, Reason | None]] = {}
    for case in cases:
        found = await request(case)
        if set(found.values()) != {case.reason}:
            wrong[f"{case.label}: {case.reason}"] = found
    return wrong


async def rejections_of_listeners(addresses: Iterable[str], port: int) -> dict[str, Reason | None]:
    """Request addresses of this machine, on a port that is allowed: as they are, in disguise and behind a name."""
    found: dict[str, Reason | None] = {}
    for text in addresses:
        address = ip_address(text)
        spellings = [f"[{text}]", f"[{address.exploded}]"]
        if isinstance(address, IPv4Address):
            mapped = IPv6Address(f"::ffff:{text}")
            octal = ".".join(f"0{part:o}" for part in address.packed)
            spellings = [
                text,
                f"{text}.",
                str(int(address)),
                hex(int(address)),
                octal,
                f"[::ffff:{text}]",
                f"[{mapped}]",
            ]
        answers = [(text,), (PUBLIC, text)]
        if isinstance(address, IPv4Address):
            answers.append((f"::ffff:{text}",))
        for way in (fetch, read_leniently):
            for host in spellings:
                url = f"http://{host}:{port}/"
                found[f"{way.__name__} {url}"] = await way(url, policy(port=port), Names([]))
            for answer in answers:
                url = f"http://images.example:{port}/"
                found[f"{way.__name__} {answer}"] = await way(url, policy(port=port), Names([answer]))
    return found


def _stop(listener: socket.socket) -> None:
    """End the accept() that waits, which closing alone does not."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def listening(addresses: Iterable[str]) -> Iterator[tuple[int, "Counter[str]"]]:
    """Listen at addresses of this machine, all on one port, and count the connections to each."""
    accepted: Counter[str] = Counter()

    def accept(listener: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()
                accepted[address] += 1

    with contextlib.ExitStack() as stack:
        port = 0
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.create_server((address, port), family=family))
            port = listener.getsockname()[1]
            threading.Thread(target=accept, args=(listener, address), daemon=True).start()
            stack.callback(_stop, listener)
        yield port, accepted


def own_addresses() -> Iterator[str]:
    """Yield the addresses of this machine's interfaces, without those that need a scope."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in Path("/proc/net/fib_trie").read_text().splitlines()]
        yield from {before[-1] for before, line in pairwise(lines) if line == ["/32", "host", "LOCAL"]}
    with contextlib.suppress(OSError):
        found = [IPv6Address(int(line[:32], 16)) for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        yield from (str(address) for address in found if not address.is_link_local)

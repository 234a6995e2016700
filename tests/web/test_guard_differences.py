"""The guard next to two that others wrote: Microsoft's, and the reading of URLs in browsers.

Whatever is drawn, they agree, or the difference is one of those that are listed here with its reason.
"""

import re
import socket
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import ada_url
import requests
from AntiSSRF import AntiSSRFError, AntiSSRFPolicy, IPAddressRanges, PolicyConfigOptions
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from refused import ADDRESSES, BAD_URLS, FORBIDDEN_PORTS, INTERNAL_NAMES, SPELLED_ADDRESSES, url_of

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.web.addresses import Address, Guard, is_public

#: Reasons of differences, each with what decides whether a case is one of its kind.
Explained = dict[str, Callable[[Any], bool]]

GUARD = Guard(ports=frozenset({80, 443}), is_own=lambda _: False)
GLOBAL_UNICAST = IPv6Network("2000::/3")
ISATAP = 0x5EFE

#: Addresses that Microsoft's guard allows and ours does not.
ADDRESSES_THAT_ONLY_WE_REJECT: Explained = {
    # They list what is special outside of 2000::/3, such as fc00::/7. Nothing else there was handed out, but some forms
    # of IPv4 addresses are: ::127.0.0.1, and the ::ffff:0:127.0.0.1 of translators.
    "outside of the space that was handed out": lambda address: address.version == 6 and address not in GLOBAL_UNICAST,
    # A router that speaks ISATAP takes the IPv4 address out of the interface identifier, whatever the prefix.
    "ISATAP around an IPv4 address that both reject": lambda address: (
        int(address) >> 32 & 0xFFFF == ISATAP and not is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    ),
}
#: Addresses that Microsoft's guard rejects and ours allows: none.
ADDRESSES_THAT_ONLY_THEY_REJECT: Explained = {}

#: URLs that Microsoft's guard allows and ours does not. It stands behind requests, which reads URLs generously.
URLS_THAT_ONLY_WE_REJECT: Explained = {
    "credentials, which would be sent": lambda url: "@" in url,
    "control characters, backslashes and outer spaces, which readers mend differently": lambda url: (
        bool(re.search(r"[\x00-\x1f\x7f-\x9f\\]", url)) or url != url.strip()
    ),
    "an address in another spelling, which getaddrinfo understands": lambda url: not _is_plain_address(_host(url)),
    "another port": lambda url: _port(url) not in (None, 80, 443),
    "an address that only we reject": lambda url: not is_public(ip_address(_host(url))),
    "a port in other digits, or with a sign": lambda url: not re.search(r":[0-9]*(?:[/?#]|$)", url[6:]),
    "a scheme without its slashes": lambda url: not re.match(r"(?i)https?://[^/?#]", url),
}
URLS_THAT_ONLY_THEY_REJECT: Explained = {
    # requests wants names to follow IDNA 2008, which has no symbols; browsers and we go on to the older standard.
    "a name beyond ASCII": lambda url: not _host(url).isascii(),
}

#: URLs that we request and browsers do not.
URLS_THAT_BROWSERS_REJECT: Explained = {
    # Letters without a meaning yet, a mark without its letter, mixed directions: no registry gives such a name out, and
    # what it resolves to is checked like any answer.
    "a name beyond ASCII that breaks a rule of names": lambda url: not _host(url).isascii(),
}


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None


def _is_plain_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@cache
def _networks() -> list[IPv4Network | IPv6Network]:
    """Every range that one of the two distinguishes from its neighbors, and the ranges that hold an IPv4 address."""
    theirs = [ip_network(text) for text in IPAddressRanges.recommended_latest]
    holding = ["::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "2002::/16", "2001::/32"]
    isatap = ["2a00:1450:4001:0:0:5efe::/96", "2a00:1450:4001:0:200:5efe::/96", "fe80:0:0:0:0:5efe::/96"]
    return [*theirs, *map(ip_network, (*holding, *isatap, *ADDRESSES, "2000::/3", "2a00::/12", "2600::/12"))]


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    """An address anywhere, or in, before or behind a range that matters."""
    anywhere = draw(st.integers(0, 3))
    if not anywhere:
        return draw(st.ip_addresses())
    network = draw(st.sampled_from(_networks()))
    first, last = int(network[0]), int(network[-1])
    number = draw(st.sampled_from([first - 1, first, last, last + 1]) | st.integers(first, last))
    if network.version == 4:
        return IPv4Address(number % 2**32)
    if draw(st.booleans()):  # with a forbidden IPv4 address at its end
        number = number >> 32 << 32 | int(draw(st.sampled_from([IPv4Address("10.0.0.1"), IPv4Address("8.8.8.8")])))
    return IPv6Address(number % 2**128)


POLICY = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
POLICY.allow_plain_text_http = True
SESSION: requests.Session = POLICY.get_antissrf_session()


def is_public_for_them(address: Address) -> bool:
    mapped = IPv6Address(f"::ffff:{address}") if address.version == 4 else address
    return not any(mapped in block.get_network() for block in POLICY.denied_addresses)


def they_allow(url: str) -> bool | None:
    """Return whether Microsoft's guard lets requests connect; None for a name that it would look up in the network."""
    try:
        request = requests.Request("GET", url).prepare()
        adapter = SESSION.get_adapter(request.url or "")
        host = (urlsplit(request.url or "").hostname or "").removesuffix(".")
        if not _is_plain_address(host):
            socket.inet_aton(str(host))
        adapter.build_connection_pool_key_attributes(request, True)  # type: ignore[attr-defined]
    except OSError as error:
        # requests' own errors are OSErrors too: what it cannot read, it does not request.
        return False if isinstance(error, requests.RequestException) else None
    except (AntiSSRFError, ValueError):
        return False
    return True


def we_allow(url: str) -> bool:
    try:
        GUARD.target(url)
    except RejectedError:
        return False
    return True


def explanation(table: Explained, case: object) -> str:
    """Return the reason of a difference.

    Raises:
        AssertionError: there is none.
    """
    reason = next((reason for reason, fits in table.items() if fits(case)), "")
    assert reason, f"a difference that nothing explains: {case!a}"
    return reason


@settings(max_examples=500, deadline=None)
@given(addresses())
def test_an_address_is_public_for_both_or_the_difference_is_explained(address: Address) -> None:
    ours, theirs = is_public(address), is_public_for_them(address)
    if ours != theirs:
        event(explanation(ADDRESSES_THAT_ONLY_WE_REJECT if theirs else ADDRESSES_THAT_ONLY_THEY_REJECT, address))


def test_every_range_that_they_deny_is_denied() -> None:
    for text in IPAddressRanges.recommended_latest:
        network = ip_network(text)
        for number in (0, -1, network.num_addresses // 2):
            assert not is_public(network[number]), network


PIECES = st.sampled_from(
    [
        *("//", "/", "\\", "@", ":", "[", "]", "#", "?", "%2e", "%00", ".", "..", ".com", ".example", "\t", "\n", " "),
        *("127", "0x7f", "0177", "1", "8.8.8.8", "127.0.0.1", "10.1", "::1", "::", "::ffff:", "2606:4700:4700::1111"),
        *("example", "localhost", "xn--", "xn--bcher-kva", "80", "443", "0", "00080", "8080", "-", "_", "a", "A"),
        *("\u3002", "\uff0e", "\uff11", "\u2460", "\u200b", "\u00ad", "\u00df", "\u0130", "\u0131", "\u212a"),
        *("\u017f", "\u00f6", "\u0301", "\u0645", "\uff10", "\u2170", "\u2100", "\u2028", "\u3000"),
    ]
)
URLS = (
    st.lists(PIECES, max_size=10).map(lambda pieces: "http://" + "".join(pieces))
    | st.lists(PIECES, max_size=6).map(lambda pieces: "https:" + "".join(pieces))
    | st.text(max_size=12).map(lambda text: f"http://{text}/")
    | st.text(max_size=6).map(lambda text: f"http://a{text}.com/")
    | addresses().map(lambda address: url_of(str(address)))
    | st.from_regex(r"http://(0x[0-9a-f]{1,4}|0?[0-9]{1,3})(\.(0x[0-9a-f]{1,2}|0?[0-9]{1,3})){0,4}/", fullmatch=True)
)


@settings(max_examples=500, deadline=None)
@given(URLS)
def test_a_url_is_requested_by_both_or_the_difference_is_explained(url: str) -> None:
    ours, theirs = we_allow(url), they_allow(url)
    if theirs is not None and ours != theirs:
        event(explanation(URLS_THAT_ONLY_WE_REJECT if theirs else URLS_THAT_ONLY_THEY_REJECT, url))


@settings(max_examples=700, deadline=None)
@given(URLS)
@example("http://_\u00df.example/")
@example("http://\u039f\u0394\u039f\u03a3.example/")
def test_what_is_requested_is_what_browsers_read(url: str) -> None:
    try:
        target = GUARD.target(url)
    except RejectedError:
        return
    try:
        read = ada_url.URL(url)
    except ValueError:
        event(explanation(URLS_THAT_BROWSERS_REJECT, url))
        return
    assert (read.protocol, read.hostname.strip("[]").removesuffix("."), read.port) == (
        f"{target.scheme}:",
        target.raw_host,
        str(target.explicit_port or ""),
    )


def test_the_table_of_refused_urls_is_not_requested_by_either_or_explained() -> None:
    for url in (*BAD_URLS, *SPELLED_ADDRESSES, *INTERNAL_NAMES, *FORBIDDEN_PORTS):
        if they_allow(url):
            assert explanation(URLS_THAT_ONLY_WE_REJECT, url)

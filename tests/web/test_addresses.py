import re
import traceback
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import BAD_URLS, FORBIDDEN_PORTS, INTERNAL_NAMES, SPELLED_ADDRESSES

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web import addresses
from pixcrawler_worker.web.addresses import DeniedError, Guard

DENIED_IPV4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
DENIED_IPV6 = [
    "::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "4000::/2",
    "8000::/1",
]
INTERNET = Guard(ports=frozenset({80, 443}))


def allowing(*networks: str) -> Guard:
    return Guard(ports=frozenset({80, 443}), allowed_networks=tuple(ip_network(text) for text in networks))


def rejection(url: str, guard: Guard = INTERNET) -> Reason:
    with pytest.raises(RejectedError) as caught:
        guard.target(url)
    return caught.value.reason


@pytest.mark.parametrize("text", DENIED_IPV4)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_no_address_of_a_special_ipv4_range_is_public(text: str, data: st.DataObject) -> None:
    network = IPv4Network(text)
    inside = IPv4Address(data.draw(st.integers(int(network[0]), int(network[-1]))))
    mapped = IPv6Address(f"::ffff:{inside}")
    isatap = IPv6Address(int(IPv6Address("2a00:1450:4001::5efe:0:0")) + int(inside))
    assert not any(addresses.is_public(address) for address in (network[0], network[-1], inside, mapped, isatap))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_every_other_ipv4_address_is_public(address: IPv4Address) -> None:
    special = any(address in IPv4Network(text) for text in DENIED_IPV4)
    assert addresses.is_public(address) is not special
    assert addresses.is_public(IPv6Address(f"::ffff:{address}")) is not special


@pytest.mark.parametrize("text", DENIED_IPV4)
def test_a_special_ipv4_range_ends_where_it_ends(text: str) -> None:
    network = IPv4Network(text)
    adjacent = [IPv4Address(n) for n in (int(network[0]) - 1, int(network[-1]) + 1) if 0 <= n < 2**32]
    others = [IPv4Network(other) for other in DENIED_IPV4 if other != text]
    for address in adjacent:
        assert addresses.is_public(address) is not any(address in other for other in others)


@pytest.mark.parametrize("text", DENIED_IPV6)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_no_address_of_a_special_ipv6_range_is_public(text: str, data: st.DataObject) -> None:
    network = IPv6Network(text)
    inside = IPv6Address(data.draw(st.integers(int(network[0]), int(network[-1]))))
    for address in (network[0], network[-1], inside):
        if not address.ipv4_mapped:
            assert not addresses.is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2a00:1450:4001::5efe:10.0.0.1",
        "2a00:1450:4001::200:5efe:192.168.0.1",
    ],
)
def test_a_special_ipv6_address_is_not_public(text: str) -> None:
    assert not addresses.is_public(IPv6Address(text))


@pytest.mark.parametrize(
    "text",
    [
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2606:4700:4700::1111",
        "2a00:1450:4001::5efe:8.8.8.8",
        "3fff:1000::1",
        "::ffff:8.8.8.8",
    ],
)
def test_an_ordinary_ipv6_address_is_public(text: str) -> None:
    assert addresses.is_public(IPv6Address(text))


def test_an_address_of_this_machine_is_distinguished_from_others() -> None:
    assert addresses.is_own(IPv4Address("127.0.0.1"))
    assert not addresses.is_own(IPv4Address("93.184.215.14"))
    assert not addresses.is_own(IPv6Address("2606:4700:4700::1111"))


def test_a_public_address_of_this_machine_is_denied() -> None:
    ours = IPv4Address("93.184.215.14")
    guard = Guard(ports=frozenset({80}), is_own=lambda address: address == ours)
    guard.check(IPv4Address("93.184.215.15"), 80)
    with pytest.raises(DeniedError, match="this machine"):
        guard.check(ours, 80)
    with pytest.raises(DeniedError, match="this machine"):
        guard.check(IPv6Address(f"::ffff:{ours}"), 80)


def test_only_allowed_ports_are_connected_to() -> None:
    INTERNET.check(IPv4Address("93.184.215.14"), 443)
    with pytest.raises(DeniedError, match="port 22"):
        INTERNET.check(IPv4Address("93.184.215.14"), 22)


def test_an_allowed_network_is_allowed_on_every_port_and_opens_nothing_else() -> None:
    guard = allowing("127.0.0.0/8", "fd00::/8")
    for text in ("127.0.0.1", "::ffff:127.0.0.1", "fd00::1"):
        guard.check(ip_address(text), 8080)
    for text in ("10.0.0.1", "::1"):
        with pytest.raises(DeniedError):
            guard.check(ip_address(text), 80)
    with pytest.raises(DeniedError, match="port 8080"):
        guard.check(IPv4Address("93.184.215.14"), 8080)


def test_a_name_with_one_forbidden_address_is_denied() -> None:
    INTERNET.check_resolved("cdn.example.com", ["93.184.215.14", "2606:4700:4700::1111"], 443)
    with pytest.raises(DeniedError, match=re.escape("cdn.example.com: 10.0.0.1")):
        INTERNET.check_resolved("cdn.example.com", ["93.184.215.14", "10.0.0.1"], 443)
    with pytest.raises(DeniedError):
        INTERNET.check_resolved("cdn.example.com", ["fe80::1%eth0"], 443)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_can_be_misread_is_rejected(url: str) -> None:
    assert rejection(url) is Reason.BAD_URL


@pytest.mark.parametrize("url", [*SPELLED_ADDRESSES, *INTERNAL_NAMES])
def test_a_url_of_an_internal_host_is_forbidden(url: str) -> None:
    assert rejection(url) is Reason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize("url", FORBIDDEN_PORTS)
def test_a_port_that_is_not_allowed_is_said_to_be_one(url: str) -> None:
    assert rejection(url) is Reason.FORBIDDEN_PORT


def test_capitals_of_letters_that_the_older_standard_replaced_are_hosts() -> None:
    assert str(INTERNET.target("http://\u039f\u0394\u039f\u03a3.example/")) == "http://xn--pxavbq.example/"
    # The tables of Unicode before 15.1 have "ss" for it.
    assert INTERNET.target("http://FA\u1e9e.de/").raw_host in ("xn--fa-hia.de", "fass.de")


def test_a_name_of_today_that_the_older_standard_does_not_have_is_a_host() -> None:
    # IDNA 2008 keeps this letter, which IDNA 2003 replaced.
    assert str(INTERNET.target("http://xn--fa-hia.de/")) == str(INTERNET.target("http://faß.de/"))


@given(
    st.text()
    | st.from_regex(r"https?://[^/]{0,40}(/.{0,20})?", fullmatch=True)
    | st.from_regex(r"http://([a-z]{1,4}\.)?xn--[a-z0-9-]{0,12}\.[a-z]{2,4}/", fullmatch=True)
)
def test_whatever_a_list_holds_is_a_target_or_rejected(url: str) -> None:
    try:
        target = INTERNET.target(url)
    except RejectedError:
        return
    # What aiohttp does with it.
    assert target.host
    assert target.raw_path_qs.isascii()


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTP://EXAMPLE.com/A.jpg", "http://example.com/A.jpg"),
        ("https://example.com:443/a.jpg", "https://example.com/a.jpg"),
        ("https://example.com:80/a.jpg", "https://example.com:80/a.jpg"),
        ("http://example.com./a.jpg", "http://example.com/a.jpg"),
        ("http://example.com/a.jpg#part", "http://example.com/a.jpg"),
        ("http://example.com/my cat.jpg", "http://example.com/my%20cat.jpg"),
        ("http://example.com/my%20cat%2F1.jpg", "http://example.com/my%20cat%2F1.jpg"),
        ("http://example.com/100%.jpg", "http://example.com/100%.jpg"),
        ("http://example.com/größe/猫.jpg", "http://example.com/gr%C3%B6%C3%9Fe/%E7%8C%AB.jpg"),
        ("http://example.com/\udcff.jpg", "http://example.com/%FF.jpg"),
        ("http://example.com/?q=a b&s=%41+/=", "http://example.com/?q=a%20b&s=%41+/="),
        ("http://example.com/a//b/../c.jpg", "http://example.com/a//b/../c.jpg"),
        ("http://example.com/a@2x.jpg", "http://example.com/a@2x.jpg"),
        ("http://example.com/w_1,h_1/a(1)!*'~.jpg;x=1", "http://example.com/w_1,h_1/a(1)!*'~.jpg;x=1"),
        ("http://my_bucket.example.com/a.jpg", "http://my_bucket.example.com/a.jpg"),
        ("http://bücher.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://例え。テスト/a.jpg", "http://xn--r8jz45g.xn--zckzah/a.jpg"),
        ("http://8.8.8.8/a.jpg", "http://8.8.8.8/a.jpg"),
        ("http://[2606:4700:4700:0::1111]/a.jpg", "http://[2606:4700:4700::1111]/a.jpg"),
        ("http://local.example/", "http://local.example/"),
    ],
)
def test_an_ordinary_url_is_sent_unchanged_but_for_its_normal_form(url: str, sent: str) -> None:
    target = INTERNET.target(url)
    assert str(target) == sent
    assert INTERNET.target(sent) == target


@pytest.mark.parametrize("url", ["http://localhost:8000/", "http://storage:9000/a.jpg", "http://127.0.0.1:8000/"])
def test_with_an_allowed_network_internal_names_and_ports_are_left_to_the_address(url: str) -> None:
    assert str(allowing("127.0.0.0/8").target(url)) == url


def test_with_an_allowed_network_disguised_addresses_stay_forbidden() -> None:
    assert rejection("http://127.1/", allowing("127.0.0.0/8")) is Reason.FORBIDDEN_ADDRESS


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_url_or_a_reason(text: str) -> None:
    for url in (text, f"http://{text}/", f"http://example.com/{text}"):
        with suppress(RejectedError):
            target = INTERNET.target(url)
            assert str(target).isascii()
            assert str(INTERNET.target(str(target))) == str(target)


def test_a_rejection_does_not_repeat_what_may_be_a_secret() -> None:
    for url in (
        "http://user:hunter2@example.com/?token=hunter2",
        "http://[hunter2/",
        "http://a:hunter2/",
        "http://127.0.0.1/?token=hunter2",
    ):
        with pytest.raises(RejectedError) as caught:
            INTERNET.target(url)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

"""Where a request may go: the text of a URL is checked first, then every address that a connection is made to.

Names prove nothing: the owner of a name decides what it resolves to, and may change that for every lookup. So the
address itself is checked, at the moment a socket is made for it.
"""

import functools
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Characters; what most servers accept in a request line.
MAX_URL_LENGTH = 8192
#: URLs that are kept parsed: a chunk parses all of its URLs before it requests the first. Some megabytes at most.
_PARSED = 512

_DEFAULT_PORTS = {"http": 80, "https": 443}

# `ipaddress.is_global` is not used: its table changes with Python's version and, on 3.11, lets multicast, relays
# and most addresses that embed another address pass. The ranges are IANA's special-purpose registries.
_DENIED_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a carrier's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and every cloud's metadata service
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112: like the two below, routed to whichever network offers the service nearby
        "192.52.193.0/24",  # multicast relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "168.63.129.16/32",  # Azure's host agent, on an address that looks public
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")  # the only space handed out so far; everything outside is denied
_DENIED_IPV6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)

# Names that mean something only inside a network (RFC 6761, appendix G of RFC 6762, RFC 8375, Kubernetes' .svc).
_INTERNAL_NAMES = (
    *("local", "localhost", "localdomain", "intranet", "internal", "private", "corp", "home", "lan", "home.arpa"),
    "svc",
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what inet_aton() would read as a part of an IPv4 address
_SAFE_IN_PATH = "%/:@!$&'()*+,;=~[]|"  # everything else is quoted; what is quoted already stays as it is
_SAFE_IN_QUERY = _SAFE_IN_PATH + "?"

_ISATAP = 0x5EFE  # IANA's number in the interface identifiers of RFC 5214

#: Added to what is said of an address that the setting can allow.
_SETTING = " (PIXCRAWLER_ALLOWED_NETWORKS can allow it)"

# Reserved, and on no interface: where even these can be bound, binding proves nothing (`ip_nonlocal_bind` of Linux).
_UNASSIGNED: dict[int, Address] = {4: IPv4Address("240.0.0.1"), 6: IPv6Address("4000::1")}
#: Letters that the older standard of internationalized names replaced or dropped, and the current one keeps.
_DEVIATIONS = re.compile("[\u00df\u03c2\u200c\u200d]")


class DeniedError(PermissionError):
    """No connection may be made to this address. An `OSError`, since it is raised where a failed connect would be.

    Args:
        message: the address or the port, and why.
        reason: what is counted.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.FORBIDDEN_ADDRESS) -> None:
        super().__init__(message)
        self.reason = reason


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet, and so does any IPv4 address hidden in it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_IPV4)
    if address.ipv4_mapped:
        return is_public(address.ipv4_mapped)
    if address not in _GLOBAL_IPV6 or any(address in network for network in _DENIED_IPV6):
        return False
    embedded = _isatap(address)
    return embedded is None or is_public(embedded)


def is_own(address: Address) -> bool:
    """Return whether an address is one of this machine's own: whether the kernel binds a socket to it.

    A public address of this machine leads past the firewall to services that trust local callers. Binding needs no
    list of interfaces and is right even when addresses come and go.
    """
    return _can_bind(address) and (not _can_bind(_UNASSIGNED[address.version]) or _is_own_source(address))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The rules for one downloader.

    Attributes:
        ports: ports that may be connected to.
        allowed_networks: networks that are allowed whatever the table says, and there every port; with any of them
            set, internal names may resolve, and what they resolve to is checked.
        is_own: returns whether an address is one of this machine's.
    """

    ports: frozenset[int]
    allowed_networks: tuple[Network, ...] = ()
    is_own: Callable[[Address], bool] = is_own

    def target(self, url: str) -> URL:
        """Parse a URL and check everything that its text says.

        Spaces and characters beyond ASCII in path and query are quoted, the fragment is dropped, a name is written
        in its ASCII form; nothing else changes, since signed URLs live by the letter.

        Raises:
            RejectedError: `BAD_URL` when it cannot be read in exactly one way, `FORBIDDEN_ADDRESS` or `FORBIDDEN_PORT`
                when it may not be requested. The detail never repeats the URL.
        """
        parsed = _parse(url)
        try:
            if parsed.literal:
                self.check(parsed.literal, parsed.port)
            elif not self.allowed_networks:
                _check_name(parsed.host)
                self._check_port(parsed.port)
        except DeniedError as error:
            raise RejectedError(error.reason, str(error)) from error
        return parsed.url

    def check(self, address: Address, port: int) -> None:
        """Allow one connection, or deny it.

        Raises:
            DeniedError: the address or the port is not allowed.
        """
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address in network for network in self.allowed_networks):
            return
        if not is_public(address):
            raise DeniedError(f"{address} is not a public address{_SETTING}")
        if self.is_own(address):
            raise DeniedError(f"{address} is an address of this machine{_SETTING}")
        self._check_port(port)

    def check_resolved(self, host: str, answers: list[str], port: int) -> None:
        """Allow a name only if every address it resolves to is allowed; one bad answer among good ones is an attack.

        Raises:
            DeniedError: an address or the port is not allowed.
        """
        for answer in answers:
            try:
                self.check(ip_address(answer), port)
            except DeniedError as error:
                raise DeniedError(f"{host}: {error}", reason=error.reason) from error

    def _check_port(self, port: int) -> None:
        if port not in self.ports:
            raise DeniedError(f"port {port} is not allowed", reason=Reason.FORBIDDEN_PORT)


class _Parsed(NamedTuple):
    """A URL in its one form, and what is checked of it."""

    url: URL
    host: str
    literal: Address | None
    port: int


@functools.lru_cache(_PARSED)
def _parse(url: str) -> _Parsed:
    """Return a URL in its one form.

    Raises:
        RejectedError: it has none, or its host spells an address in disguise.
    """
    parts, port = _split(url)
    host = _host(parts)
    literal = _literal(host)
    requested_port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    authority = f"[{host}]" if isinstance(literal, IPv6Address) else host
    if requested_port != _DEFAULT_PORTS[parts.scheme]:
        authority += f":{requested_port}"
    try:
        path = quote(parts.path, safe=_SAFE_IN_PATH, errors="surrogateescape") or "/"
        query = quote(parts.query, safe=_SAFE_IN_QUERY, errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.BAD_URL, "holds half a character") from error
    form = URL(f"{parts.scheme}://{authority}{path}{'?' if query else ''}{query}", encoded=True)
    return _Parsed(form, host, literal, requested_port)


def _split(url: str) -> tuple[SplitResult, int | None]:
    """Split a URL in a way that two parsers agree upon."""
    if len(url) > MAX_URL_LENGTH:
        raise RejectedError(Reason.BAD_URL, f"longer than {MAX_URL_LENGTH} characters")
    if _CONTROL.search(url) or url != url.strip():
        raise RejectedError(Reason.BAD_URL, "holds control characters, a backslash or outer whitespace")
    # The parsers' own errors repeat the URL, passwords included: they are not kept as the cause.
    try:
        parts, second = urlsplit(url), URL(url, encoded=True)
        port, second_port = parts.port, second.explicit_port
    except (ValueError, IndexError):  # IndexError: yarl, on brackets after which nothing follows
        raise RejectedError(Reason.BAD_URL, "cannot be parsed") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise RejectedError(Reason.BAD_URL, "is neither http nor https")
    if "@" in parts.netloc:
        raise RejectedError(Reason.BAD_URL, "carries credentials")
    first = (parts.scheme, parts.hostname or "", port)
    if first != (second.scheme, (second.raw_host or "").lower(), second_port):
        raise RejectedError(Reason.BAD_URL, "is read differently by two parsers")
    return parts, port


def _host(parts: SplitResult) -> str:
    """Return the host in its one ASCII form, without brackets, without the dot that ends a full name."""
    host = parts.hostname or ""
    if not host or "%" in host:
        raise RejectedError(Reason.BAD_URL, "has no host, or a quoted one")
    if "[" in parts.netloc:
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise RejectedError(Reason.BAD_URL, "has brackets around something else than IPv6") from None
    if not host.isascii():
        try:
            read = URL.build(scheme="http", host=host)
            kept = set(read.host or "")
        except ValueError:
            raise RejectedError(Reason.BAD_URL, "has a host that is not an internationalized name") from None
        # yarl goes back to the older standard for names that the current one does not have; browsers do not.
        if not kept.issuperset(_DEVIATIONS.findall(host)):
            raise RejectedError(Reason.BAD_URL, "has a host that is read differently by two standards")
        host = read.raw_host or ""
    host = host.removesuffix(".").lower()
    if not _HOSTNAME.fullmatch(host):
        raise RejectedError(Reason.BAD_URL, "has a host that is not a name")
    if "xn--" in host and not _is_decodable(host):
        raise RejectedError(Reason.BAD_URL, "has a host that is not an internationalized name")
    return host


def _is_decodable(host: str) -> bool:
    """Return whether each label of a name that says so is Punycode (RFC 3492): what is not cannot be looked up."""
    try:
        return URL(f"http://{host}/", encoded=True).host is not None
    except (ValueError, IndexError):  # UnicodeError among them
        return False


def _literal(host: str) -> Address | None:
    """Return the address a host spells, or None for a name; other spellings of numbers are rejected."""
    looks_numeric = ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2])
    if not looks_numeric:
        return None
    try:
        return ip_address(host)
    except ValueError:
        raise RejectedError(Reason.FORBIDDEN_ADDRESS, "has a host that spells an address in disguise") from None


def _check_name(host: str) -> None:
    if "." not in host or any(host == name or host.endswith(f".{name}") for name in _INTERNAL_NAMES):
        raise DeniedError(f"{host} is an internal name{_SETTING}")


def _isatap(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address inside `....:5efe:a.b.c.d`, whatever the prefix and the flag bits."""
    interface = int(address) & (2**64 - 1)
    return IPv4Address(interface & 0xFFFFFFFF) if interface >> 32 & 0xFFFF == _ISATAP else None


def _can_bind(address: Address) -> bool:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _is_own_source(address: Address) -> bool:
    """Return whether packets to an address would come from it: of all addresses, only for our own. Nothing is sent."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False

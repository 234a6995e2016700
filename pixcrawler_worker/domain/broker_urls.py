"""URLs of the broker: one rule for workers, clients and checks, in the forms of kombu and of redis-py.

    redis://:password@host:6379/0
    rediss://user:password@host:6380/0?ssl_ca_certs=/etc/ssl/redis.pem
    redis+socket://:password@/run/redis/socket?virtual_host=0          (`unix://` with `db=0` is the same)

Both libraries accept what the other one rejects, differ in what they verify, and raise errors that hold the password.
So a URL is read here first, and each gets one that it understands.
"""

import re
from collections.abc import Mapping

from pixcrawler_worker.errors import PermanentError

EXAMPLES = "expected for example redis://:password@host:6379/0, or redis+socket:///directory/socket"
_TCP, _SOCKETS = ("redis", "rediss"), ("redis+socket", "unix")
_SENTINEL = "Redis Sentinel is not supported: name the primary, or a proxy that follows it"
_CLUSTER = "a Redis Cluster is not supported, which keeps no order of messages over several queues: use a single Redis"
_SCHEMES = "other brokers than Redis are not supported; for Valkey write redis://"
_UNENCODED = "a character of the user, the password or a parameter must be percent-encoded, as %2F for a slash"
_HOST = re.compile(r"[\w.-]*|\[[0-9a-f:.]+(?:%25\w+)?\]", re.IGNORECASE | re.ASCII)
#: What no part of a URL has without being encoded.
_NEVER_PLAIN = re.compile(r"[\s\x00-\x1f\x7f\\]")
#: Databases of one Redis; it is configured with 16, and may have more.
_DATABASE = re.compile("[0-9]{1,6}")
_MAX_PORT = 65_535
_MAX_LENGTH = 4096
#: Words for how certificates are verified, in both libraries.
_VERIFICATIONS = {"required", "optional", "none"}
_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_BOOLEANS: Mapping[str, str] = {
    "true": "true",
    "1": "true",
    "yes": "true",
    "false": "false",
    "0": "false",
    "no": "false",
}


def for_kombu(url: str) -> str:
    """Return the URL of a broker as kombu has it. The certificate of `rediss://` is verified unless it says otherwise.

    Raises:
        PermanentError: when it is not one that both libraries can use; the message has no part of it.
    """
    scheme, before_query, parameters = _read(url)
    if scheme in _SOCKETS:
        before_query = f"redis+socket{before_query.removeprefix(scheme)}"
        parameters = {"virtual_host": parameters["db"]} if parameters else {}
    elif scheme == "rediss":
        # Without a word about it, kombu verifies nothing.
        parameters.setdefault("ssl_cert_reqs", "required")
    return _joined(before_query, parameters)


def for_redis(url: str) -> str:
    """Return the URL of a broker as redis-py has it.

    Raises:
        PermanentError: as `for_kombu`.
    """
    scheme, before_query, parameters = _read(url)
    if scheme in _SOCKETS:
        before_query = f"unix{before_query.removeprefix(scheme)}"
    return _joined(before_query, parameters)


def _read(url: str) -> tuple[str, str, dict[str, str]]:
    """Return the scheme of a URL, all of it before the query, and its parameters, with values that both know."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or len(url) > _MAX_LENGTH or scheme not in (*_TCP, *_SOCKETS):
        raise _invalid(_SENTINEL if "sentinel" in scheme else _CLUSTER if "cluster" in scheme else _SCHEMES)
    if _NEVER_PLAIN.search(url):
        raise _invalid(_UNENCODED)
    before, question, query = rest.partition("?")
    userinfo, _, located = before.rpartition("@")
    # A password with a character that belongs to the structure of a URL: each library takes another part for the host.
    if re.search(r"[@/?#]", userinfo) or "@" in query or "#" in rest:
        raise _invalid(_UNENCODED)
    if scheme == "redis" and question:
        raise _invalid("it has no parameters; those of TLS need rediss://")
    parameters = _parameters(query, _SOCKET_PARAMETERS if scheme in _SOCKETS else _TLS_PARAMETERS) if question else {}
    if scheme in _SOCKETS:
        if not located.startswith("/") or located == "/":
            raise _invalid("the path of the socket is missing")
    else:
        _check_location(located)
    return scheme, f"{scheme}://{before}", parameters


def _check_location(located: str) -> None:
    authority, _, database = located.partition("/")
    host, colon, port = authority.rpartition(":") if re.search(r":[^\]]*\Z", authority) else (authority, "", "")
    if not _HOST.fullmatch(host):
        raise _invalid("the host is invalid")
    if colon and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= _MAX_PORT):
        raise _invalid(f"the port is not a number from 1 to {_MAX_PORT}")
    if database and not _DATABASE.fullmatch(database):
        raise _invalid("the database is not a number")


def _parameters(query: str, known: Mapping[str, Mapping[str, str] | None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for parameter in query.split("&"):
        name, equals, value = parameter.partition("=")
        if not equals or not value or name not in known:
            allowed = ", ".join(known)
            raise _invalid(f"a parameter is unknown or empty, allowed are {allowed}")
        # The name under which redis-py knows a database.
        named = "db" if name == "virtual_host" else name
        if named in found:
            raise _invalid(f"the parameter {name} is there twice")
        words = known[name]
        word = value if words is None else words.get(value.lower().removeprefix("cert_"))
        if word is None or (named == "db" and not _DATABASE.fullmatch(value)):
            raise _invalid(f"the parameter {name} is invalid")
        found[named] = word
    return found


_SOCKET_PARAMETERS: Mapping[str, Mapping[str, str] | None] = {"virtual_host": None, "db": None}
_TLS_PARAMETERS: Mapping[str, Mapping[str, str] | None] = {
    "ssl_cert_reqs": {word: word for word in _VERIFICATIONS},
    "ssl_check_hostname": _BOOLEANS,
    **dict.fromkeys(sorted(_FILES)),
}


def _joined(before_query: str, parameters: Mapping[str, str]) -> str:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"{before_query}?{query}" if query else before_query


def _invalid(why: str) -> PermanentError:
    return PermanentError(f"invalid broker URL, {EXAMPLES} ({why})")

"""Text without secrets: the one place that decides what a log, an error, an event or a report must not show.

`mask` is for text of any kind, in which a secret may be anywhere; `mask_value` for JSON; `mask_url` for one value that
should be a URL, of which little is shown unless it is one. What cannot be read is masked rather than shown. All of them
take time in proportion to the text.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

MASK = "****"

#: Schemes of URLs whose user is no secret when there is a password as well.
_NAMED_USERS = frozenset({"postgres", "postgresql", "postgresql+psycopg", "redis", "rediss", "redis+socket", "unix"})
#: Names of parameters whose values are no secrets, of libpq, of Redis and of object stores.
_HARMLESS = re.compile(
    r"host|hostaddr|port|dbname|user|sslmode|sslrootcert|sslcert|sslkey|sslnegotiation|sslcrl|connect_timeout"
    r"|application_name|target_session_attrs|load_balance_hosts|gssencmode|channel_binding|client_encoding"
    r"|keepalives(?:_idle|_interval|_count)?|tcp_user_timeout|db|virtual_host|ssl_cert_reqs|ssl_ca_certs|ssl_certfile"
    r"|ssl_keyfile|ssl_check_hostname|region|page",
    re.IGNORECASE,
)
_HARMLESS_VALUE = re.compile(r"[\w./,:*-]{0,200}", re.ASCII)
#: What only a name of a secret has in it. That a bare `key` or `auth` is one depends on where it is.
_WORDS = (
    r"passw|passphrase|passcode|pwd|secret|token|credential|cookie|signature|authorization|session[_-]?id|basic[_-]?auth"
    r"|(?:api|access|private|account|signing|encryption|service|shared|storage|auth|client|license|app|aws|sas)[_-]?key"
)
_IS_SECRET_NAME = re.compile(rf"{_WORDS}|(?:^|[_-])(?:sig|auth|key|pass|jwt|bearer)$", re.IGNORECASE)
#: A name, and its value: quoted, with what is escaped in it, or up to white space.
_NAMED = re.compile(
    rf"""(?P<name>(?:{_WORDS}|(?<![\w-])(?:sig|pgpass)(?=\\*["']?\s{{0,3}}=))[\w.-]{{0,60}}\\*["']?\]?"""
    r"""\s{0,3}(?:=>?|:)\s{0,3})(?P<value>"(?:[^"\\]|\\.|"")*+"?|'(?:[^'\\]|\\.|'')*+'?|\\+["'][^"'\\]*(?:\\*["'])?"""
    r"""|[bru]{1,2}(?:"(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?)|[\[{(][^\n]*"""
    r"""|[^\s"',;}][^\s"'}]*)""",
    re.IGNORECASE | re.DOTALL,
)
#: A header, whose value goes on to the end of its line where it is not quoted.
_HEADER = re.compile(
    r"""(\b(?:(?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,40}(?:key|token|secret|auth)[\w-]{0,40})\s{0,3}:\s{0,3})"""
    r"""[^\s"'][^\r\n"']*""",
    re.IGNORECASE,
)
#: Tokens that are known by their form: of HTTP, JSON Web Tokens, keys of AWS, Google, GitHub, Hugging Face and others.
_TOKENS = (
    re.compile(r"\b(Bearer|Digest|Negotiate)\s{1,3}[\w.~+/=-]{6,}", re.IGNORECASE),
    re.compile(r"\b(Basic)\s{1,3}[A-Za-z0-9+/=]{12,}"),
)
_KEYS = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\b(?:ghp|gho|ghs|ghu)_\w{20,}"
    r"|\bgithub_pat_\w{20,}|\bhf_\w{20,}|\b[sr]k_(?:live|test)_\w{10,}|\bxox[abprs]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
#: What ends a URL in a text, and what a text has after one.
_RUN = re.compile(r"[^\s\"'<>`]+")
_PUNCTUATION = re.compile(r"[).,;:\]}]*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}\Z")
#: The beginning of a URL, and what such a one has whose password holds no white space: a host, after the last `@`.
_BEGINNING = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,30}:/{1,2}([^\s\"'<>`]*)")
_USUAL = re.compile(
    r"(?:.*@[\w.\[-]|(?:[\w-]+(?:\.[\w-]*)+|localhost)(?::[0-9]{0,5})?(?:\W|\Z)|[\w,-]+(?::[0-9]{1,5})?(?:[^\w:]|:?\Z(?<!:))"
    r"|\[[0-9a-f:.]{2,45}\]|[/?#,;.)]|\Z)",
    re.IGNORECASE,
)
#: The beginning of a web address without user information.
_HTTP = re.compile(r"https?://[^@:/?#]*(?::[0-9]{1,5})?(?:[/?#]|\Z)", re.IGNORECASE)
#: What is rather a user and the beginning of a password than a host and its port, when there is an `@` behind it.
_MAYBE_USER = re.compile(r"[\w.-]*:[0-9]{1,5}[^/@]*")
#: The rest of a line up to an `@`, where the URL above is broken by white space in its password.
_REST = re.compile(r"[^\n\"'<>]{0,300}@")
#: The same where a password may have quotation marks, angle brackets and line ends, too.
_WIDE_REST = re.compile(".{0,300}@", re.DOTALL)
#: What comes before the path of a URL, with one host or, for libpq, several.
_HOST = r"(?:[\w.-]+|\[[0-9a-f:.%]+\])?(?::[0-9]{0,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*", re.IGNORECASE)
_PATH = re.compile(r"(?:[\w./~+:,@!$*()&-]|%[0-9a-f]{2})*", re.IGNORECASE)
#: What only a query, or a broken URL, has when it is decoded.
_NOT_IN_PATH = re.compile(r"[?#=;\\\x00-\x1f]")
#: What comes before a password in a URL that has lost a slash, as in the path of a file.
_WITHOUT_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/?:(?=[^\s:])")
_USER = re.compile(r"[\w.-]{0,63}")
_PERCENT = re.compile("%([0-9a-fA-F]{2})")
#: Password of URLs that messages and documentation give as examples.
_EXAMPLE = "password"
#: Nothing that is masked comes without one of these.
_MAY_HAVE_SECRETS = re.compile(
    r"[@=?]|://|:|\b(?:Bearer|Basic|Digest|Negotiate)\b|AKIA|ASIA|AIza|eyJ|gh[opsu]_|hf_|k_|xox|-----", re.IGNORECASE
)
#: Levels of a JSON value that are looked at.
_MAX_LEVELS = 20


def mask(text: str) -> str:
    """Return a text without passwords, tokens, and the queries of URLs."""
    if not _MAY_HAVE_SECRETS.search(text):
        return text
    text = _KEYS.sub(MASK, text)
    text = _without_spaced_passwords(text)
    text = _RUN.sub(lambda run: _masked_run(run[0]), text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _NAMED.sub(_masked_named, text)
    for token in _TOKENS:
        text = token.sub(rf"\1 {MASK}", text)
    return text


def mask_value(value: Any, *, name: str = "", levels: int = _MAX_LEVELS) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value with masked texts, and without the values of keys that name a secret.

    Args:
        value: of JSON; another object stays as it is, or becomes its text when that has to be masked.
        name: the key of the value.
        levels: of lists and objects that are looked at; what lies deeper is masked.
    """
    if value is None or isinstance(value, bool):
        return value
    if (name and is_secret_name(name)) or not levels:
        return MASK
    if isinstance(value, Mapping):
        return {
            mask(key) if isinstance(key, str) else key: mask_value(one, name=str(key)[:200], levels=levels - 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_value(one, levels=levels - 1) for one in value]
    if isinstance(value, str | int | float):
        return mask(value) if isinstance(value, str) else value
    masked = mask(shown := repr(value))
    return value if masked == shown else masked


def mask_url(text: str) -> str:
    """Return what may be shown of a value that should be a URL: of one that is none, the scheme at most.

    Hosts, the path and the values of parameters that are known to be harmless are shown, to find mistakes by.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return MASK
    userinfo, hosts, tail = _split(rest, is_path_without_at=False)
    path, question, query = tail.partition("?")
    path, fragment = path.partition("#")[0], "#" in tail
    if not _HOSTS.fullmatch(hosts) or not _has_plain_port(hosts, userinfo):
        return f"{scheme}://{MASK}"
    shown = f"{scheme}://{_masked_userinfo(scheme, userinfo)}{hosts}{_masked_path(path)}"
    if question:
        shown += "?" + "&".join(_masked_parameter(one) for one in query.partition("#")[0].split("&"))
    return f"{shown}#{MASK}" if fragment else shown


def is_secret_name(name: str) -> bool:
    """Return whether a key or a parameter of this name holds a secret."""
    return _IS_SECRET_NAME.search(name) is not None


def _split(rest: str, *, is_path_without_at: bool) -> tuple[str | None, str, str]:
    """Return user information, hosts, and the rest of a URL after its scheme.

    A password may have any character that it should not have. So the user information goes to the last `@`, unless
    `@` is allowed in a path and what comes before the path is a plain host.
    """
    end = min((at for at in (rest.find(one) for one in "/?#") if at >= 0), default=len(rest))
    authority = rest[:end]
    is_plain = is_path_without_at and "@" not in authority and re.fullmatch(r"[\w-]+(?:\.[\w-]+)+|localhost", authority)
    at = -1 if is_plain else rest.rfind("@")
    if at < 0:
        return None, authority, rest[end:]
    after = rest[at + 1 :]
    end = min((found for found in (after.find(one) for one in "/?#") if found >= 0), default=len(after))
    return rest[:at], after[:end], after[end:]


def _has_plain_port(hosts: str, userinfo: str | None) -> bool:
    """Return whether what looks like hosts is no password: `redis://:1234` is rather one than a port."""
    return userinfo is not None or not hosts.startswith(":")


def _masked_userinfo(scheme: str, userinfo: str | None) -> str:
    if userinfo is None:
        return ""
    user, colon, password = userinfo.partition(":")
    if userinfo in {"", f":{_EXAMPLE}", f"user:{_EXAMPLE}"}:
        return f"{userinfo}@"
    if scheme.lower() not in _NAMED_USERS or not _USER.fullmatch(user):
        return f"{MASK}@"
    if not colon:
        # A password without a colon is a common mistake with Redis.
        return f"{user}@" if scheme.lower().startswith("postgres") else f"{MASK}@"
    return f"{user}:{MASK}@" if password else f"{MASK}@"


def _masked_path(path: str) -> str:
    decoded = path
    for _ in range(3):
        decoded = _PERCENT.sub(lambda digits: chr(int(digits[1], 16)), decoded)
    if not _PATH.fullmatch(path) or _NOT_IN_PATH.search(decoded):
        return f"/{MASK}"
    segments = path.split("/")
    for number, (before, segment) in enumerate(pairwise(segments), start=1):
        if segment and is_secret_name(before):
            segments[number] = MASK
    return "/".join(segments)


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]{1,60}", name, re.ASCII):
        return MASK if parameter else ""
    if not value or (_HARMLESS.fullmatch(name) and _HARMLESS_VALUE.fullmatch(value)):
        return parameter
    # A broken URL may have a part of a password in the place of a name.
    return f"{name}={MASK}" if is_secret_name(name) or _HARMLESS.fullmatch(name) or name == "options" else MASK


def _without_spaced_passwords(text: str) -> str:
    """Return a text in which what begins as a URL, but has no host, goes on to the last `@` of its line."""
    parts: list[str] = []
    done = 0
    for beginning in _BEGINNING.finditer(text):
        start = beginning.start(1)
        is_web = _HTTP.match(beginning[0]) is not None
        is_usual = _USUAL.match(beginning[1]) is not None and (is_web or not _MAYBE_USER.fullmatch(beginning[1]))
        # The path of a web address may have an `@`.
        is_path = is_usual and is_web
        if start < done or not (rest := (_REST if is_path else _WIDE_REST).match(text, start)):
            continue
        # What has a password may go on behind white space, too, however much it looks like a URL up to there.
        goes_on = "@" in beginning[1] and rest.end() > beginning.end()
        if goes_on or not is_usual:
            parts += [text[done:start], MASK, "@"]
            done = rest.end()
    return "".join(parts) + text[done:]


def _masked_run(run: str) -> str:
    """Return a part of a text without white space and quotation marks, with masked URLs."""
    if "://" in run:
        # A text may have a prefix, as in `url=https://...`, or several URLs, each of which ends before the next scheme.
        starts = [found.start() for found in re.finditer(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://", run)]
        if len(starts) > 1 and (at := run.rfind("@")) > starts[1]:
            # A password with a scheme in it cannot be distinguished from a list.
            return f"{_masked_address(run[: starts[0]])}{run[starts[0] :].partition('://')[0]}://{MASK}{run[at:].partition('?')[0]}"
        if starts:
            bounds = [*starts, len(run)]
            urls = (_masked_url_in_text(run[start:end]) for start, end in pairwise(bounds))
            return _masked_address(run[: starts[0]]) + "".join(urls)
    return _masked_address(run)


def _masked_url_in_text(url: str) -> str:
    punctuation = _PUNCTUATION.search(url)
    ending = punctuation[0] if punctuation else ""
    scheme, _, rest = url[: len(url) - len(ending)].partition("://")
    userinfo, hosts, tail = _split(rest, is_path_without_at=scheme.lower() in {"http", "https"})
    shown = f"{scheme}://{_masked_userinfo(scheme, userinfo)}"
    if userinfo is None and not _HOSTS.fullmatch(hosts):
        return f"{shown}{MASK}{ending}"
    cut = min((at for at in (tail.find(one) for one in "?#;") if at >= 0), default=len(tail))
    masked = f"{tail[cut]}{MASK}" if len(tail) > cut + 1 else tail[cut:]
    return f"{shown}{hosts}{_masked_segments(tail[:cut])}{masked}{ending}"


def _masked_segments(path: str) -> str:
    return path if "%" not in path else re.sub(r"(%(?:25)*3[bBfFdD]).*", rf"\1{MASK}", path)


def _masked_address(run: str) -> str:
    """Return a part of a text, without the password in `user:password@host`, which lacks a scheme, and in a query."""
    if broken := _WITHOUT_USER.match(run):
        return f"{broken[0]}{MASK}"
    at = run.rfind("@")
    colon = run.find(":", 0, at) if at > 0 else -1
    if 0 <= colon < at - 1 and run[colon + 1 : at] != _EXAMPLE:
        run = f"{run[: colon + 1]}{MASK}{run[at:]}"
    if (question := run.find("?")) >= 0 and "=" in run[question:]:
        return f"{run[:question]}?{MASK}"
    return run


def _masked_named(found: re.Match[str]) -> str:
    value = found["value"]
    if value.startswith((MASK, f'"{MASK}', f"'{MASK}")):
        return found[0]
    for quote in ('"', "'"):
        if value.startswith(quote):
            return f"{found['name']}{quote}{MASK}{quote}"
    return f"{found['name']}{MASK}"

"""Placeholder images ("this photo is unavailable"), which hosts send with status 200 in place of a missing one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError

#: Bits of 64 in which an image may differ from a perceptual hash: copies of an image differ in 0 to 6 bits, unrelated
#: ones in 32 on average, and less than one pair of 10^9 in 8 or fewer.
MAX_DISTANCE = 8
#: A perceptual hash sets the bit of every frequency above the median, half of them: with fewer than this or more than
#: 64 minus this, the image has no frequencies, that is, one color.
_MIN_BITS = 16
#: Bits in which hashes of an image can differ that are of different versions (`db.images.HASH_VERSION`).
_BETWEEN_VERSIONS = 8
_SHA256, _PHASH = re.compile(r"[0-9a-f]{64}"), re.compile(r"([0-9a-f]{16})(?:/(\d{1,2}))?")
#: A URL without its scheme, user and fragment: host with port, path, and query.
_URL = re.compile(r"(?:(?:[a-z][a-z0-9+.-]*:)?//)?(?:[^/?#@]*@)?([^/?#]*)([^?#]*)(\?[^#]*)?", re.IGNORECASE)
#: Of patterns: case does not matter, and any character stands for `*`.
_FLAGS = re.IGNORECASE | re.DOTALL
_PORT = re.compile(r":\d*$")
#: Letters and digits that a pattern needs, so that it cannot be one for all URLs.
_MIN_LETTERS = 4
_EXPECTED = "expected `sha256:<64 hex digits>`, `phash:<16 hex digits>[/<distance>]` or `url:<pattern>`"


class _Pattern(NamedTuple):
    """A pattern of URLs, and whether it says something of the query."""

    written: str
    regex: re.Pattern[str]
    has_query: bool


@dataclass(frozen=True, slots=True)
class Placeholders:
    """Known placeholder images.

    Attributes:
        digests: SHA-256 of files.
        hashes: perceptual hashes, each with the number of bits in which an image may differ from it.
        patterns: of URLs.
    """

    digests: frozenset[bytes] = frozenset()
    hashes: Mapping[int, int] = field(default_factory=dict)
    patterns: tuple[_Pattern, ...] = ()
    #: One for all patterns without a query, and one for those with: nearly all URLs match neither.
    _any: tuple[re.Pattern[str], re.Pattern[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        both = (_any_of(one for one in self.patterns if one.has_query is has_query) for has_query in (False, True))
        object.__setattr__(self, "_any", tuple(both))

    def __or__(self, other: "Placeholders") -> "Placeholders":
        """Return the placeholders of both."""
        distances = {
            known: max(self.hashes.get(known, 0), other.hashes.get(known, 0)) for known in {*self.hashes, *other.hashes}
        }
        return Placeholders(self.digests | other.digests, distances, self.patterns + other.patterns)

    def check_url(self, url: str) -> None:
        """Raise RejectedError when a URL is that of a placeholder.

        Args:
            url: of a candidate, or the one that its redirects led to.
        """
        parts = _URL.match(url)
        if parts is None:
            return
        host, path, query = parts[1], parts[2] or "/", parts[3] or ""
        forms = {host, _PORT.sub("", host)}
        without, with_query = self._any
        if not any(without.fullmatch(form + path) or with_query.fullmatch(form + path + query) for form in forms):
            return
        for pattern in self.patterns:
            rest = path + query if pattern.has_query else path
            if any(pattern.regex.fullmatch(form + rest) for form in forms):
                raise RejectedError(Reason.PLACEHOLDER, f"its URL is that of a placeholder, {pattern.written}")

    def check_image(self, facts: ImageFacts) -> None:
        """Raise RejectedError when an image is a placeholder.

        No perceptual hash counts for an image without a brighter pixel beside a darker one (`dhash` 0): the hash of one
        color is rounding noise, which any other color may have as well.
        """
        if facts.sha256 in self.digests:
            raise RejectedError(Reason.PLACEHOLDER, f"its bytes are those of a placeholder, {facts.sha256.hex()}")
        if self._has_near(facts, 0):
            raise RejectedError(Reason.PLACEHOLDER, f"it looks like a placeholder, {facts.phash:016x}")

    def may_be_of_another_version(self, facts: ImageFacts) -> bool:
        """Return whether a list may have an image by a perceptual hash of another version than that in its facts."""
        return self._has_near(facts, _BETWEEN_VERSIONS)

    def _has_near(self, facts: ImageFacts, more: int) -> bool:
        """Return whether an image differs from a hash in no more bits than it may, and so many more."""
        if not self.hashes or facts.dhash == 0:
            return False
        return any((known ^ facts.phash).bit_count() <= allowed + more for known, allowed in self.hashes.items())


def _any_of(patterns: Iterable[_Pattern]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one.regex.pattern})" for one in patterns) or r"(?!)", _FLAGS)


def parse(lines: Iterable[str], origin: str) -> Placeholders:
    """Return the placeholders that a list names, one a line; empty lines and lines that begin with `#` are comments.

    A pattern of URLs is a host with a path, in which `*` stands for any characters; a scheme in front of it and the
    case do not matter, a port and a query only when the pattern has one.

    Args:
        lines: of the list.
        origin: its name, for messages.

    Raises:
        PermanentError: when a line is broken; the message has the origin and the number of the line.
    """
    digests: set[bytes] = set()
    hashes: dict[int, int] = {}
    patterns: list[_Pattern] = []
    for number, written in enumerate(lines, 1):
        line = written.strip()
        if not line or line.startswith("#"):
            continue
        kind, _, value = (part.strip() for part in line.partition(":"))
        try:
            match kind.lower():
                case "sha256":
                    digests.add(_digest(value.lower()))
                case "phash":
                    known, distance = _hash(value.lower())
                    hashes[known] = max(distance, hashes.get(known, 0))
                case "url":
                    patterns.append(_pattern(value))
                case _:
                    raise PermanentError(f"{origin}, line {number}: {_EXPECTED}")
        except ValueError as error:
            raise PermanentError(f"{origin}, line {number}: {error}") from None
    return Placeholders(frozenset(digests), hashes, tuple(patterns))


def _digest(value: str) -> bytes:
    if not _SHA256.fullmatch(value):
        raise ValueError(f"a SHA-256 has 64 hex digits: {_EXPECTED}")
    return bytes.fromhex(value)


def _hash(value: str) -> tuple[int, int]:
    found = _PHASH.fullmatch(value)
    if found is None:
        raise ValueError(f"a perceptual hash has 16 hex digits: {_EXPECTED}")
    known, distance = int(found[1], 16), int(found[2] or 0)
    if distance > MAX_DISTANCE:
        raise ValueError(f"a distance is 0 to {MAX_DISTANCE}: other images would be rejected, too")
    if not _MIN_BITS <= known.bit_count() <= 64 - _MIN_BITS:
        raise ValueError("this is the perceptual hash of an image of one color, and of many others: use its SHA-256")
    return known, distance


def _pattern(value: str) -> _Pattern:
    parts = _URL.fullmatch(value)
    if parts is None or not parts[1] or not parts[2]:
        raise ValueError("a pattern of URLs is a host with a path, such as `i.example.com/removed*.png`")
    host, path, query = parts[1], parts[2], parts[3] or ""
    if sum(character.isalnum() for character in path + query) < _MIN_LETTERS:
        raise ValueError(f"the path of a pattern needs {_MIN_LETTERS} letters or digits, or images would match it")
    first, *words = (re.escape(word) for word in (host + path + query).split("*"))
    # Each word is found once, where it is first: with several of them, a URL that nearly matches would take hours.
    found = "".join(f"(?>.*?{word})" for word in words[:-1]) + "".join(f".*{word}" for word in words[-1:])
    return _Pattern(value, re.compile(first + found, _FLAGS), bool(query))

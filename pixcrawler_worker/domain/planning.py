"""Cutting a crawl into slices: who is asked, for which page, and for how many images at most.

A slice is one page of one source for one keyword. A round is a set of slices whose quotas add up to exactly the images
that are still missing, so a job cannot overshoot; what a round falls short of, the next one asks for again, from the
candidates that were left over and from further pages.
"""

import functools
import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pixcrawler_worker.errors import PermanentError

#: Longest keyword: what the strictest provider takes without cutting it silently (Openverse, 200 characters).
MAX_KEYWORD_LENGTH = 200
#: Names that no file may have on Windows ("Naming Files, Paths, and Namespaces", Microsoft).
_DEVICE = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")
#: Label of images that came without one to a job of several.
UNLABELLED = "unlabelled"
#: Below this share of good candidates the yield says little about the next page, so planning assumes no worse.
_LOWEST_YIELD = 0.1
#: Slices of one round, so that a row that wants two billion images plans no more than a worker can hold.
_MOST_SLICES = 10_000
#: After so many pages in a row that were given up, a source is not asked for this keyword any more.
_MAX_FAILURES = 2
_EXPECTED = 'an array of strings, or of objects such as {"query": "red panda", "label": "panda", "max_images": 200}'


@dataclass(frozen=True, slots=True)
class Keyword:
    """One class of the dataset: what is searched, how its images are labeled, and how many it may have at most."""

    query: str
    label: str
    max_images: int | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one source can be asked for one keyword.

    Attributes:
        page_size: candidates per page.
        pages: pages there are at most; None when nobody knows.
    """

    page_size: int
    pages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunk:
    """The work of one chunk.

    Attributes:
        source: name of the source that is asked.
        query: the keyword as it is searched.
        label: the class that its images get.
        page: page of the source's answer, from 0.
        page_size: candidates per page, without which the page's number means nothing.
        quota: images this slice may bring at most.
        only: positions within the page that are still to be judged; None for all.
    """

    source: str
    query: str
    label: str
    page: int
    page_size: int
    quota: int
    only: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        return asdict(self)

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> "CrawlChunk":
        """Return the chunk with that payload."""
        only = payload["only"]
        return cls(**{**payload, "only": None if only is None else tuple(only)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunkResult:
    """How a slice of an earlier round ended.

    Attributes:
        chunk: what was requested.
        offered: candidates that were judged.
        stored: images that became rows.
        left: positions that nobody judged because the quota was met before.
        more: whether the source has further pages.
        failed: whether the slice was given up, so that nothing is known of its page.
    """

    chunk: CrawlChunk
    offered: int = 0
    stored: int = 0
    left: tuple[int, ...] = ()
    more: bool = True
    failed: bool = False


def keywords(raw: object) -> tuple[Keyword, ...]:
    """Return the keywords of a job's row, in order and without repetitions.

    Accepts `["cat"]`, `{"keywords": ["cat"]}` and objects with `query`, `label` and `max_images` in the array.

    Raises:
        PermanentError: when it is anything else; the message says what was expected, and where it was not met.
    """
    listed = raw.get("keywords") if isinstance(raw, Mapping) else raw
    if not isinstance(listed, list):
        raise PermanentError(f"keywords must be {_EXPECTED}, not {_shown(raw)}")
    if not listed:
        raise PermanentError(f"keywords is empty: give at least one keyword, as {_EXPECTED}")
    found: dict[tuple[str, str], Keyword] = {}
    for position, entry in enumerate(listed):
        keyword = _keyword(entry, position)
        first = found.setdefault((keyword.query, keyword.label), keyword)
        if first != keyword:
            raise PermanentError(f"keywords[{position}] repeats {keyword.query!r} with another max_images")
    return tuple(found.values())


def _keyword(entry: object, position: int) -> Keyword:
    where = f"keywords[{position}]"
    if isinstance(entry, str):
        query = _text(entry, where)
        return Keyword(query, query)
    if not isinstance(entry, Mapping) or "query" not in entry:
        raise PermanentError(f"{where} must be a string or an object with a query, not {_shown(entry)}")
    if unknown := sorted(set(entry) - {"query", "label", "max_images"}):
        raise PermanentError(f"{where} has the unknown key {unknown[0]!r}; known are query, label and max_images")
    cap = entry.get("max_images")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise PermanentError(f"{where}.max_images must be a whole number above 0, not {_shown(cap)}")
    query = _text(entry["query"], f"{where}.query")
    return Keyword(query, _text(entry.get("label", query), f"{where}.label"), cap)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise PermanentError(f"{where} must be a string, not {_shown(value)}")
    text = " ".join(unicodedata.normalize("NFC", value).split())
    if not text:
        raise PermanentError(f"{where} is blank")
    if len(text) > MAX_KEYWORD_LENGTH:
        raise PermanentError(f"{where} has {len(text)} characters; at most {MAX_KEYWORD_LENGTH} are allowed")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise PermanentError(f"{where} has control characters: {_shown(text)}")
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of a terminal


def balance(total: int, have: Sequence[int], caps: Sequence[int]) -> tuple[int, ...]:
    """Return how many to add to each of `have` so that they become as even as the caps allow.

    The additions sum to `total`, or to what the caps leave room for when that is less. Earlier entries get the odd
    ones: five images over seven keywords give 1, 1, 1, 1, 1, 0, 0.
    """
    added = [0] * len(have)
    left = total
    while left > 0:
        growing = [i for i, cap in enumerate(caps) if added[i] < cap]
        if not growing:
            break
        level = min(have[i] + added[i] for i in growing)
        lowest = [i for i in growing if have[i] + added[i] == level]
        # Raise the lowest together until the next level, a cap, or the end of what there is.
        above = [have[i] + added[i] - level for i in growing if have[i] + added[i] > level]
        step = min([caps[i] - added[i] for i in lowest] + above)
        step = min(step, left // len(lowest))
        if step:
            for i in lowest:
                added[i] += step
            left -= step * len(lowest)
        else:
            for i in lowest[:left]:
                added[i] += 1
            left = 0
    return tuple(added)


def fill(total: int, caps: Sequence[int]) -> tuple[int, ...]:
    """Return `total` dealt out so that the first ones are full before the next one gets any."""
    shares = []
    for cap in caps:
        shares.append(min(cap, total))
        total -= shares[-1]
    return tuple(shares)


@dataclass(slots=True)
class _Stream:
    """One keyword at one source: what was asked so far, and what can still be asked."""

    keyword: Keyword
    source: str
    page_size: int
    pages: int | None
    next_page: int = 0
    offered: int = 0
    stored: int = 0
    failures: int = 0
    left: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether asking again may bring something: there is more, and the source does not just fail."""
        if self.failures >= _MAX_FAILURES or (self.failures and not self.offered):
            return False
        return bool(self.left) or self.pages is None or self.next_page < self.pages

    @property
    def capacity(self) -> int:
        """Candidates that can still be asked for; a large number where nobody knows."""
        waiting = sum(len(positions) for _, positions in self.left)
        if self.pages is None:
            return 2**31
        return waiting + max(0, self.pages - self.next_page) * self.page_size

    def remember(self, outcome: CrawlChunkResult) -> None:
        page = outcome.chunk.page
        self.failures = self.failures + 1 if outcome.failed else 0
        self.next_page = max(self.next_page, page + 1)
        self.offered += outcome.offered
        self.stored += outcome.stored
        self.left = [entry for entry in self.left if entry[0] != page]
        if outcome.left:
            self.left.append((page, outcome.left))
        if not outcome.more:
            self.pages = self.next_page if self.pages is None else min(self.pages, self.next_page)

    def slices(self, quota: int, *, most: int) -> list[CrawlChunk]:
        """Cut `quota` over as many leftovers and pages as the yield so far makes likely to be enough, at most `most`.

        While nothing is known, pages are expected to be good and filled one after the other; later each of them is
        expected to bring its part.
        """
        yielded = max(_LOWEST_YIELD, self.stored / self.offered) if self.offered else 1.0
        wanted = math.ceil(quota / yielded)
        parts: list[tuple[int, tuple[int, ...] | None, int]] = []
        for page, positions in sorted(self.left):
            if wanted > 0 and len(parts) < most:
                parts.append((page, positions, len(positions)))
                wanted -= len(positions)
        page = self.next_page
        while wanted > 0 and len(parts) < most and (self.pages is None or page < self.pages):
            parts.append((page, None, self.page_size))
            wanted -= self.page_size
            page += 1
        sizes = [size for _, _, size in parts]
        quotas = balance(quota, [0] * len(parts), sizes) if self.offered else fill(quota, sizes)
        return [
            CrawlChunk(
                source=self.source,
                query=self.keyword.query,
                label=self.keyword.label,
                page=page,
                page_size=self.page_size,
                quota=share,
                only=positions,
            )
            for (page, positions, _), share in zip(parts, quotas, strict=True)
            if share
        ]


def next_round(
    *,
    keywords: Sequence[Keyword],
    sources: Mapping[str, Reach],
    max_images: int,
    history: Sequence[CrawlChunkResult] = (),
) -> tuple[CrawlChunk, ...]:
    """Return the slices of the next round; none when the job has its images or nothing is left to ask.

    Args:
        keywords: the classes of the job.
        sources: names of the sources to ask, and how far each can be asked.
        max_images: rows that the job may have.
        history: outcomes of every slice of the rounds before.

    The quotas sum to the missing images where the candidates can suffice within 10,000 slices. Classes are kept even,
    sources of one class take equal parts, and slices of different classes alternate, so that an early look at a job
    shows every class.
    """
    streams = {
        (k, source): _Stream(k, source, reach.page_size, reach.pages)
        for k in keywords
        for source, reach in sources.items()
    }
    by_name = {(k.query, k.label, source): stream for (k, source), stream in streams.items()}
    for outcome in sorted(history, key=lambda outcome: outcome.chunk.page):
        done = outcome.chunk
        if stream := by_name.get((done.query, done.label, done.source)):
            stream.remember(outcome)

    have = [sum(streams[k, source].stored for source in sources) for k in keywords]
    caps = []
    for keyword, stored in zip(keywords, have, strict=True):
        room = sum(streams[keyword, s].capacity for s in sources if streams[keyword, s].alive)
        caps.append(min(room, max_images if keyword.max_images is None else max(0, keyword.max_images - stored)))
    wanted = balance(max_images - sum(have), have, caps)

    planned: list[list[CrawlChunk]] = []
    most = max(1, _MOST_SLICES // len(streams)) if streams else 0
    for keyword, quota in zip(keywords, wanted, strict=True):
        alive = [streams[keyword, source] for source in sources if streams[keyword, source].alive]
        shares = balance(quota, [0] * len(alive), [stream.capacity for stream in alive])
        planned += [stream.slices(share, most=most) for stream, share in zip(alive, shares, strict=True) if share]
    longest = max(map(len, planned), default=0)
    return tuple(slices[i] for i in range(longest) for slices in planned if i < len(slices))


def only_label(raw: object) -> str:
    """Return the label of a crawl job's images that came without one: that of its only keyword, if it has only one."""
    try:
        found = keywords(raw)
    except PermanentError:
        return UNLABELLED
    return found[0].label if len(found) == 1 else UNLABELLED


@functools.lru_cache(maxsize=4096)  # asked for every image, of which many have the same label
def slug(label: str) -> str:
    """Return the label as a folder's name: ASCII letters, digits, `-` and `_`, at most 50 characters.

    A label that loses something on the way (another script, a slash, capital letters), has the hyphen that others get
    in place of a space, or is what Windows calls a device, keeps a short digest, so that two labels never share a
    folder, not even on a file system that ignores case.
    """
    plain = plain_name(label)
    if plain == label.replace(" ", "-") and "-" not in label and not _DEVICE.fullmatch(plain):
        return plain
    digest = hashlib.sha256(label.encode()).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest


def plain_name(text: str) -> str:
    """Return a text as part of a file's name: ASCII letters, digits, `-` and `_`, at most 40; maybe nothing."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:40].strip("-")


def url_hash(url: str) -> bytes:
    """Return 16 bytes that stand for a URL: the head of the SHA-256 of its text without a fragment."""
    return hashlib.sha256(url.partition("#")[0].encode("utf-8", "surrogatepass")).digest()[:16]

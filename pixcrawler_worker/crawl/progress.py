"""What a chunk of a crawl has to do, and how far it has come."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.keywords import class_label
from pixcrawler_worker.domain.list_columns import kept_caption, kept_columns
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.domain.safe_text import MAX_URL_LENGTH
from pixcrawler_worker.jobs.internal_errors import InternalErrors
from pixcrawler_worker.sources.protocol import Candidate
from pixcrawler_worker.web.bodies import Body

#: Characters of the detail of a rejection.
_MAX_DETAIL = 1_000
#: Of a candidate that no list says anything about.
_NO_ROW = ListRow("")
#: Of a candidate that its source says nothing about.
_NO_CREDIT = Credit()


@dataclass(frozen=True, slots=True)
class CrawlWork:
    """A claimed chunk with what it needs of the job.

    Attributes:
        claim: of the chunk.
        chunk: its payload.
        options: of the job.
        quota: images that the chunk may store, at most.
        rows: the page of the URL list, for the source `urls`.
        stall: seconds without progress after which other jobs come first; None when this chunk has waited often enough.
        patience: how long a host may have been down before its candidates are rejected.
        only_source: whether the job has no other source.
        keeps_failures: whether URLs and details of rejected candidates are to be kept.
    """

    claim: Claim
    chunk: CrawlChunk
    options: CrawlOptions
    quota: int
    rows: tuple[ListRow, ...]
    stall: float | None
    patience: timedelta
    only_source: bool
    keeps_failures: bool = True

    @property
    def skips_known(self) -> bool:
        """Whether images that other jobs have are left out."""
        return self.options.skip_known or self.options.extends is not None

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the page."""
        return tuple(row.url for row in self.rows)


def kept_row(candidate: Candidate) -> ListRow:
    """Return what a list says about a candidate, or its source as a list would, as it is stored."""
    return ListRow(
        candidate.url,
        kept_caption(candidate.caption),
        None if candidate.label is None else class_label(candidate.label),
        kept_columns(candidate.columns) or {},
    )


@dataclass(slots=True, eq=False)
class Offer:
    """A candidate on its way.

    Attributes:
        position: in the result page.
        candidate: as its source has it.
        url_hash: of its URL.
        row: what a list says about it, or its source as a list would, as it is stored.
        credit: from its source, as it is stored.
        host: see `web.hosts.key`; None where its URL may not be requested.
        due: when it may be tried, by the monotonic clock.
        tries: downloads that failed so that another one may succeed.
        late: whether it was slow, so that the others come first.
        body: of its download.
        gone: how many of its URLs are gone: the next one is tried.
    """

    position: int
    candidate: Candidate
    url_hash: bytes
    row: ListRow = _NO_ROW
    credit: Credit = _NO_CREDIT
    host: str | None = None
    due: float = 0.0
    tries: int = 0
    late: bool = False
    body: Body | None = None
    gone: int = 0

    @property
    def url(self) -> str:
        """The URL that is tried: that of the candidate, or an alternate once that is gone."""
        return (self.candidate.url, *self.candidate.alternates)[self.gone]

    def next_url(self) -> bool:
        """Go on to the next URL; return whether there is one."""
        if self.gone >= len(self.candidate.alternates):
            return False
        self.gone += 1
        self.tries = 0
        return True


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate did not become an image.

    Attributes:
        url: of the candidate.
        reason: the word that is counted.
        detail: what happened, in one line without secrets.
        status: of the HTTP response, where that is the reason.
        row: of the candidate, as it would have been stored.
    """

    url: str
    reason: Reason
    detail: str = ""
    status: int | None = None
    row: ListRow = _NO_ROW


@dataclass(frozen=True, slots=True)
class Pause:
    """What is left of a chunk, and until when.

    Attributes:
        positions: candidates that are left, within the page.
        delay: until one of them may be tried.
        waiting: number of candidates that wait for each host.
        deferred: whether only connections that other workers use are missing, which costs no attempt.
        yielded: whether the chunk stopped for other jobs, because its hosts are slow.
        kept: the candidates that are left, for a chunk that keeps them.
    """

    positions: tuple[int, ...]
    delay: timedelta = timedelta(0)
    waiting: Mapping[str, int] = field(default_factory=dict)
    deferred: bool = False
    yielded: bool = False
    kept: tuple[Mapping[str, Any], ...] | None = None


@dataclass(slots=True)
class CrawlProgress:
    """The progress of one attempt. Every candidate ends up in exactly one of `images`, `rejected`, `left` and `pause`.

    Attributes:
        quota: images that the chunk may store, at most.
        images: stored images by their position in the result page.
        rejected: rejection reasons with counts.
        rejections: the same by hash, for candidates with a URL.
        retriable: reasons of candidates that a retry of the job tries again, by position.
        processed: hashes of the URLs of candidates that became images or were rejected, with their positions.
        digests: SHA-256 of the images.
        same_bytes: candidates that were rejected since another one of the page has the same SHA-256.
        downloaded: positions of candidates whose body has arrived.
        received: bytes of these bodies.
        hosts: for how many seconds downloads waited for and received from each host, all of them together.
        reserved: images that are being stored.
        storing: set once that has ended, by their SHA-256.
        left: positions of leftovers: the quota was met.
        pause: what is left to another attempt; None when the chunk is done.
        more: whether the source may have further result pages.
        bugs: that candidates met.
    """

    quota: int
    images: dict[int, NewImage] = field(default_factory=dict)
    rejected: Counter[Reason] = field(default_factory=Counter)
    rejections: dict[bytes, Rejection] = field(default_factory=dict)
    retriable: dict[int, Reason] = field(default_factory=dict)
    processed: Mapping[bytes, int] = field(default_factory=dict)
    digests: set[bytes] = field(default_factory=set)
    same_bytes: list[tuple[Offer, bytes]] = field(default_factory=list)
    downloaded: set[int] = field(default_factory=set)
    received: int = 0
    hosts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reserved: int = 0
    storing: dict[bytes, asyncio.Event] = field(default_factory=dict)
    left: tuple[int, ...] = ()
    pause: Pause | None = None
    more: bool = False
    bugs: InternalErrors = field(default_factory=lambda: InternalErrors("crawl", "candidate rejected: internal error"))

    @property
    def missing(self) -> int:
        """Images that the quota still has room for."""
        return self.quota - len(self.images) - self.reserved

    @contextlib.contextmanager
    def timed(self, host: str | None) -> Iterator[None]:
        """Count the time of the context as that of a host, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            if host is not None:
                self.hosts[host] += time.monotonic() - began

    @contextlib.contextmanager
    def reserve(self, digest: bytes) -> Iterator[None]:
        """Reserve room in the quota, and the digest, while the image is stored."""
        self.reserved += 1
        self.digests.add(digest)
        ended = self.storing[digest] = asyncio.Event()
        try:
            yield
        except BaseException:
            self.digests.discard(digest)
            raise
        finally:
            self.reserved -= 1
            del self.storing[digest]
            ended.set()

    async def has(self, digest: bytes) -> bool:
        """Return whether an image with a SHA-256 is stored. One that is being stored is waited for: it may fail."""
        while ended := self.storing.get(digest):
            await ended.wait()
        return digest in self.digests

    def reject(self, offer: Offer, reason: Reason, detail: str = "", *, status: int | None = None) -> None:
        """Count a candidate that did not become an image; see `Rejection`."""
        self.rejected[reason] += 1
        self.rejections[offer.url_hash] = Rejection(
            offer.candidate.url[:MAX_URL_LENGTH], reason, detail[:_MAX_DETAIL], status, offer.row
        )
        if reason.is_retriable:
            self.retriable[offer.position] = reason

    def reject_internally(self, error: Exception, offer: Offer | None = None, **where: str) -> None:
        """Count a candidate that met a bug.

        Raises:
            OutageError: when the machine has run out of something, which the next candidate would meet too.
        """
        if offer is not None:
            where["url_hash"] = offer.url_hash.hex()
        line = self.bugs.add(error, **where)
        if offer is None:
            self.rejected[Reason.INTERNAL_ERROR] += 1
        else:
            self.reject(offer, Reason.INTERNAL_ERROR, line)

"""What a chunk of a crawl has to do, and what it has brought, as its row has them.

A chunk is one result page of one source for one keyword.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.domain.stored_json import Fields

#: Chunks of one round, so that a row with two billion images does not exceed the memory of a worker.
MAX_CHUNKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunk:
    """The work of one chunk, as its payload has it.

    Attributes:
        source: name of the source.
        query: the text to search for.
        label: of the images.
        page: number of the result page, from 0.
        page_size: candidates per result page, which defines what a page number stands for.
        quota: images that the chunk may store, at most.
        only: positions of leftovers within the page; None for all candidates.
        yields: how often the chunk made way for other jobs, because its hosts were slow.
        waiting: number of candidates that wait for each host that is left alone, until the chunk is due.
        kept: the candidates of the leftovers, as `crawl/kept_candidates.py` writes them; None where the page has to be
            searched, or is one of a URL list.
        more: whether the source may have further result pages, where candidates are kept.
    """

    source: str
    query: str
    label: str
    page: int
    page_size: int
    quota: int
    only: tuple[int, ...] | None = None
    yields: int = 0
    waiting: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[Mapping[str, Any], ...] | None = None
    more: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        payload = asdict(self)
        for name in ("yields", "waiting", "kept"):
            if not payload[name]:
                del payload[name]
        if self.more:
            del payload["more"]
        return payload

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> "CrawlChunk":
        """Return the chunk with that payload.

        Raises:
            PermanentError: when the payload is invalid; the message names the field.
        """
        fields = Fields(payload, "payload")
        return cls(
            source=fields.text("source"),
            query=fields.text("query"),
            label=fields.text("label"),
            page=fields.integer("page", maximum=MAX_INT4),
            page_size=fields.integer("page_size", minimum=1, maximum=MAX_INT4),
            quota=fields.integer("quota"),
            only=fields.integers("only") if fields.has("only") else None,
            yields=fields.integer("yields", default=0),
            waiting=fields.counts("waiting", optional=True),
            kept=fields.objects("kept") if fields.has("kept") else None,
            more=fields.flag("more") if fields.has("more") else True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunkResult:
    """How a chunk of an earlier round ended.

    Attributes:
        chunk: its work.
        offered: candidates that became images or were rejected.
        stored: candidates that became images.
        left: positions of leftovers: the quota was met before they were needed.
        more: whether the source may have further result pages.
        downloaded: complete downloads.
        reasons: rejection reasons with counts.
        retriable: positions of candidates that were rejected for now, with the reasons.
        failed: whether the chunk failed, so that nothing is known of the rest of its page.
    """

    chunk: CrawlChunk
    offered: int = 0
    stored: int = 0
    left: tuple[int, ...] = ()
    more: bool = True
    downloaded: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    retriable: Mapping[int, str] = field(default_factory=dict)
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result of a chunk."""
        result = {
            "offered": self.offered,
            "stored": self.stored,
            "downloaded": self.downloaded,
            "reasons": dict(self.reasons),
            "left": self.left,
            "more": self.more,
        }
        if self.retriable:
            result["retriable"] = {str(position): reason for position, reason in self.retriable.items()}
        return result

    @classmethod
    def from_json(cls, chunk: CrawlChunk, result: Mapping[str, Any]) -> "CrawlChunkResult":
        """Return the result of a chunk, or of the parts of it that are done.

        Raises:
            PermanentError: when the result is invalid; the message names the field.
        """
        fields = Fields(result, "result")
        return cls(
            chunk=chunk,
            offered=fields.integer("offered"),
            stored=fields.integer("stored"),
            left=fields.integers("left"),
            more=fields.flag("more"),
            downloaded=fields.integer("downloaded", default=0),
            reasons=fields.counts("reasons", optional=True),
            retriable=fields.positions("retriable"),
        )

    def after(self, earlier: "CrawlChunkResult") -> "CrawlChunkResult":
        """Return the result of this part of a chunk with those before it."""
        reasons = Counter(earlier.reasons)
        reasons.update(self.reasons)
        return replace(
            self,
            offered=earlier.offered + self.offered,
            stored=earlier.stored + self.stored,
            downloaded=earlier.downloaded + self.downloaded,
            reasons=dict(reasons),
            retriable={**earlier.retriable, **self.retriable},
        )

    def reopened(self) -> "CrawlChunkResult":
        """Return the result as if the candidates that were rejected for now had not been offered."""
        again = Counter(self.retriable.values())
        return replace(
            self,
            offered=max(0, self.offered - again.total()),
            reasons=dict(Counter(self.reasons) - again),
            retriable={},
        )

"""What the ended chunks of a crawl job sum up to, as the next round is planned from it.

The sums are kept, so that a round reads the chunks of the round before and not those of all. They are the same as if
all chunks were read at once: results may come in any order, as long as those of one page come in the order in which its
chunks were planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pixcrawler_worker.domain.crawl_chunks import MAX_CHUNKS, CrawlChunkResult
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.domain.stored_json import Fields

#: Reasons of candidates that cost no request besides that for their page.
_FREE = frozenset({Reason.KNOWN_URL, Reason.DUPLICATE_URL, Reason.INVALID_ENTRY})
#: Reasons of candidates that say that a page brings nothing new.
_REPEATED = (Reason.DUPLICATE_URL, Reason.INVALID_ENTRY)
#: Query, class and source.
Search: TypeAlias = tuple[str, str, str]


@dataclass(slots=True)
class SearchHistory:
    """What one search at one source has brought.

    Attributes:
        next_page: the first result page that was not requested.
        offered: candidates that became images or were rejected.
        stored: candidates that became images.
        pages: result pages that there are; None while no response has said so.
        last_good: the last page that was read; -1 before the first one.
        failed: pages behind that one which failed, once for each chunk.
        left: positions of leftovers by page.
        last_new: the last page that had a candidate which the job had not met before; -1 before the first one.
        repeated: pages behind that one which had none: they were empty, or the same as others.
    """

    next_page: int = 0
    offered: int = 0
    stored: int = 0
    pages: int | None = None
    last_good: int = -1
    failed: list[int] = field(default_factory=list)
    left: dict[int, tuple[int, ...]] = field(default_factory=dict)
    last_new: int = -1
    repeated: list[int] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """How many pages in a row have failed, up to the last one."""
        return len(self.failed)

    def add(self, result: CrawlChunkResult) -> None:
        """Take the result of a chunk into account."""
        page = result.chunk.page
        if page >= self.last_good:
            if result.failed:
                self.failed.append(page)
            else:
                self.last_good = page
                self.failed = [one for one in self.failed if one > page]
        if not result.failed and result.chunk.only is None:
            self._note_new(result)
        self.next_page = max(self.next_page, page + 1)
        self.offered += result.offered
        self.stored += result.stored
        self.left.pop(page, None)
        if result.left:
            self.left[page] = result.left
        if not result.more:
            self.pages = page + 1 if self.pages is None else min(self.pages, page + 1)

    def _note_new(self, result: CrawlChunkResult) -> None:
        page, old = result.chunk.page, sum(result.reasons.get(reason, 0) for reason in _REPEATED)
        if page <= self.last_new:
            return
        if result.offered > old or result.left:
            self.last_new = page
            self.repeated = [one for one in self.repeated if one > page]
        elif page not in self.repeated:
            self.repeated.append(page)

    def to_json(self) -> dict[str, Any]:
        """Return the sums with JSON's types only."""
        return {
            "next_page": self.next_page,
            "offered": self.offered,
            "stored": self.stored,
            "pages": self.pages,
            "last_good": self.last_good,
            "failed": self.failed,
            "last_new": self.last_new,
            "repeated": self.repeated,
            "left": [{"page": page, "positions": positions} for page, positions in self.left.items()],
        }

    @classmethod
    def from_json(cls, fields: Fields) -> "SearchHistory":
        """Return the sums that were kept.

        Raises:
            PermanentError: when they are invalid; the message names the field.
        """
        return cls(
            next_page=fields.integer("next_page"),
            offered=fields.integer("offered"),
            stored=fields.integer("stored"),
            pages=fields.integer("pages") if fields.has("pages") else None,
            last_good=fields.integer("last_good", minimum=-1),
            failed=list(fields.integers("failed")),
            # Sums of the version before have neither.
            last_new=fields.integer("last_new", minimum=-1) if fields.has("last_new") else -1,
            repeated=list(fields.integers("repeated")) if fields.has("repeated") else [],
            left={left.integer("page"): left.integers("positions") for left in fields.each("left")},
        )


@dataclass(slots=True)
class CrawlHistory:
    """What all ended chunks of a job have brought.

    Attributes:
        searches: by query, class and source.
        known_pages: result pages that had nothing but what other jobs have.
    """

    searches: dict[Search, SearchHistory] = field(default_factory=dict)
    known_pages: int = 0

    @property
    def stored(self) -> int:
        """Candidates that became images."""
        return sum(one.stored for one in self.searches.values())

    def add(self, result: CrawlChunkResult) -> None:
        """Take the result of a chunk into account."""
        done = result.chunk
        self.searches.setdefault((done.query, done.label, done.source), SearchHistory()).add(result)
        self.known_pages += (
            Reason.KNOWN_URL in result.reasons and not result.stored and not result.reasons.keys() - _FREE
        )

    def of(self, query: str, label: str, source: str) -> SearchHistory:
        """Return what a search has brought; nothing for one that there was not."""
        return self.searches.get((query, label, source)) or SearchHistory()

    def free_rounds(self, *, list_source: str) -> int:
        """Return how many rounds do not count.

        Those of which a result page had nothing but what other jobs have: a job that adds to a large dataset passes
        over all of its pages first, for one request each. And those that a URL list filled: a long one takes many.

        Args:
            list_source: name of the source that takes the job's URL list.
        """
        pages = [one.next_page for (_, _, source), one in self.searches.items() if source == list_source]
        return self.known_pages + max(pages, default=0) // MAX_CHUNKS

    def to_json(self) -> dict[str, Any]:
        """Return the sums with JSON's types only."""
        searches = [
            {"query": query, "label": label, "source": source, **one.to_json()}
            for (query, label, source), one in self.searches.items()
        ]
        return {"known_pages": self.known_pages, "searches": searches}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CrawlHistory":
        """Return the sums that were kept.

        Raises:
            PermanentError: when they are invalid; the message names the field.
        """
        fields = Fields(value, "history")
        searches = {
            (one.text("query"), one.text("label"), one.text("source")): SearchHistory.from_json(one)
            for one in fields.each("searches")
        }
        return cls(searches, fields.integer("known_pages"))

"""What a source of candidates is: the one file to read before writing one.

A source is a class that an installed package names under the entry-point group `pixcrawler.sources`. It is made once
per worker process and asked for one page at a time.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.plugins import Plugins
from pixcrawler_worker.web.fetch import Downloader

SOURCES = Plugins("source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One page to ask for.

    Attributes:
        text: what is searched.
        label: the class that the images will get.
        page: number of the page, from 0.
        page_size: candidates per page, at most the source's own `page_size`; the same for every page of a job.
        urls: this page of the job's URL list, for a source that takes one; empty otherwise.
        licenses: identifiers and families (`domain/licenses.py`) that are wanted; None for all. Asking for no others
            saves candidates that the worker would refuse.
        min_width: pixels, likewise.
        min_height: pixels, likewise.
        safe_search: leave out adult content, as far as the provider can.
    """

    text: str
    label: str
    page: int
    page_size: int
    urls: tuple[str, ...] = ()
    licenses: tuple[str, ...] | None = None
    min_width: int = 1
    min_height: int = 1
    safe_search: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A picture that somebody may have: its address, and what its source says of it.

    Attributes:
        url: where the file is.
        credit: whose picture it is.
        width: pixels of that file; None when the source does not say.
        height: pixels, likewise.
    """

    url: str
    credit: Credit = field(default_factory=Credit)
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Attributes:
        candidates: in the source's order, at most as many as were asked for.
        more: False when there is certainly nothing behind this page. True may turn out wrong: the next page is empty.
    """

    candidates: tuple[Candidate, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """What an operator configured for one source: `PIXCRAWLER_<NAME>_URL` and `PIXCRAWLER_<NAME>_API_KEY`."""

    base_url: str | None = None
    api_key: str | None = None


class Source(Protocol):
    """One provider of candidates.

    Attributes:
        summary: one line for people: what it offers.
        terms: one line for people: licenses, limits, and where the provider's terms stand.
        page_size: candidates that one page can have at most; None for as many as a job wants.
        depth: candidates that can be reached for one query; None when nobody knows.
    """

    summary: ClassVar[str]
    terms: ClassVar[str]
    page_size: ClassVar[int | None]
    depth: ClassVar[int | None]

    def __init__(self, config: SourceConfig) -> None:
        """Keep the configuration; no I/O."""
        ...

    def missing(self) -> str | None:
        """Return what has to be configured before it can be used, in one line; None when it is ready."""
        ...

    async def search(self, query: Query, downloader: Downloader) -> Page:
        """Return one page of candidates: the same page for the same query, as far as the provider allows.

        Raises:
            TransientError: when the provider is busy or away; the chunk is given back.
            PermanentError: when it will never answer this; the chunk fails.
        """
        ...


def load(name: str, config: SourceConfig) -> Source:
    """Return the source of that name.

    Raises:
        PermanentError: when no such source is installed, or its package is broken.
    """
    factory: type[Source] = SOURCES.load(name)
    return factory(config)

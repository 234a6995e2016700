"""What a source of candidates is: the one file to read before writing one.

A source is a class that an installed package names under the entry-point group `pixcrawler.sources`. There is one of it
in a worker process, and every chunk of a job requests one result page. `docs/sources.md` has an example.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError, WorkerError
from pixcrawler_worker.masking import mask
from pixcrawler_worker.plugins import Plugins
from pixcrawler_worker.web.http import AsyncClient

SOURCES = Plugins("source")
#: Characters of the error of a bug that are shown.
_MAX_ERROR = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One result page to request.

    Attributes:
        text: what is searched.
        label: the class that the images will get.
        page: number of the page, from 0.
        page_size: candidates per page, at most the source's own `page_size`; the same for every page of a job.
        urls: this page of the job's URL list, for a source that takes one; empty otherwise.
        rows: the same page with what the list says about each image; empty where only the URLs are known.
        licenses: identifiers and families (`domain/licenses.py`) to search for; None for all. The worker rejects
            candidates with others, so a source that leaves them out saves work.
        min_width: pixels, likewise.
        min_height: pixels, likewise.
        safe_search: leave out adult content, as far as the provider can.
        target_side: pixels that the shorter side should have at least, for a source with several sizes of an image;
            None for a size that suits most datasets. `sources/sizes.py` chooses.
    """

    text: str
    label: str
    page: int
    page_size: int
    urls: tuple[str, ...] = ()
    rows: tuple[ListRow, ...] = ()
    licenses: tuple[str, ...] | None = None
    min_width: int = 1
    min_height: int = 1
    safe_search: bool = True
    target_side: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that a source offers: its URL, and what the source says of it.

    Attributes:
        url: where the file is. It identifies the candidate within a job.
        credit: whose image it is.
        width: pixels of that file; None when the source does not say.
        height: pixels, likewise.
        use_url: what the source requests once the image is used, where the provider's terms want that.
        caption: a text that describes the image to a model; None for none. A title belongs into the credit.
        label: the class of this image; None for that of the query.
        columns: anything else that goes into the dataset, in JSON, by name.
        alternates: URLs of the same image in other sizes, the best first, for when the file at `url` is gone.
    """

    url: str
    credit: Credit = field(default_factory=Credit)
    width: int | None = None
    height: int | None = None
    use_url: str | None = None
    caption: str | None = None
    label: str | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    alternates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A result page.

    Attributes:
        candidates: in the source's order, at most as many as were requested.
        more: False when this is certainly the last page. True may turn out wrong: the next page is empty.
        invalid: number of entries that are not candidates, because they have no URL; they are counted as rejected.
    """

    candidates: tuple[Candidate, ...]
    more: bool
    invalid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """What an operator configured for one source: `PIXCRAWLER_<NAME>_URL` and `PIXCRAWLER_<NAME>_API_KEY`."""

    base_url: str | None = None
    api_key: str | None = None

    def base(self, default: str) -> str:
        """Return the base URL of the provider, with a slash at its end; the default where none is configured."""
        return (self.base_url or default).rstrip("/") + "/"


class Source(ABC):
    """One provider of candidates: a subclass says what it is, and searches.

    Attributes:
        summary: what it offers, in one line.
        terms: licenses, limits, and the URL of the provider's terms, in one line.
        page_size: candidates that one result page can have at most; None for as many as a job requests.
        depth: candidates that can be reached for one query; None when that is unknown.
        specialized: whether it has images of some topics only, so that a job has to name it.
        config: what the operator configured.
    """

    summary: ClassVar[str]
    terms: ClassVar[str]
    page_size: ClassVar[int | None] = None
    depth: ClassVar[int | None] = None
    specialized: ClassVar[bool] = False

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    def missing(self) -> str | None:
        """Return what has to be configured before it can be used, in one line; None when it is ready."""
        return None

    @abstractmethod
    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of candidates: the same page for the same query, as far as the provider allows.

        Args:
            query: what is searched.
            http: a client of httpx for the provider's API. The worker guards it: private addresses are rejected, time
                and bytes are limited, redirects are followed, hiccups are tried again, the User-Agent is the worker's.

        Raises:
            httpx.HTTPStatusError: from `response.raise_for_status()`: 429 and errors of the server release the chunk
                until later (Retry-After is kept), other statuses fail it.
            httpx.RequestError: from the client: what may pass releases the chunk, the rest fails it.
            TransientError: when the provider says in a way of its own that it is busy; the chunk is released.
            PermanentError: when the provider rejects this query for good; the chunk fails.
        """

    async def report_use(self, use_url: str, http: AsyncClient) -> None:  # noqa: B027 - most providers want none
        """Report that an image was stored to the provider, where its terms want that. Errors are logged.

        Args:
            use_url: of the candidate. The worker calls this once it has stored the image, and only where it has one.
            http: as for a search.
        """


def load(name: str, config: SourceConfig) -> Source:
    """Return the source of that name.

    Raises:
        PermanentError: when no such source is installed, or its package is broken.
    """
    factory: type[Source] = SOURCES.load(name)
    return factory(config)


def look_at(name: str, config: SourceConfig) -> tuple[Source, str | None]:
    """Return the source of that name, and what has to be configured before it is ready, for a list of all sources.

    Raises:
        PermanentError: when no such source is installed, or its package is broken, or meets a bug: the list has the
            others nevertheless.
    """
    try:
        source = load(name, config)
        return source, source.missing()
    except WorkerError:
        raise
    except Exception as error:
        raise PermanentError(f"source {name!r} met an internal error: {mask(repr(error))[:_MAX_ERROR]}") from error

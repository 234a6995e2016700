"""Wikimedia Commons, by MediaWiki's Action API (https://commons.wikimedia.org/w/api.php).

A page of candidates is one search with `gsroffset`; its files come with their licenses. Files are taken as thumbnails
of a width that Wikimedia keeps ready (https://www.mediawiki.org/wiki/Common_thumbnail_sizes), since originals of 10 MB
are more than a dataset needs, and more than its servers like to give to robots.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, SourceConfig
from pixcrawler_worker.web import api
from pixcrawler_worker.web.api import Answer
from pixcrawler_worker.web.fetch import Downloader

T = TypeVar("T", bound=BaseModel)

_API = "https://commons.wikimedia.org/w/api.php"
#: Widths in pixels, from the one that serves most datasets up; others are rounded up to the next step, or throttled.
_WIDTHS = (1280, 1920, 3840)
_METADATA = "LicenseShortName|License|LicenseUrl|Artist|Attribution|ObjectName"
#: Answers to one search: the server may cut a batch into parts, but not into more than its files.
_MOST_PARTS = 100
#: How long to leave the servers alone when they do not say: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter
_REST = timedelta(seconds=5)
#: Errors that pass (https://www.mediawiki.org/wiki/API:Errors_and_warnings), with or without a wish to be left alone.
_BUSY = frozenset({"maxlag", "ratelimited"})
_PASSING = ("internal_api_error", "readonly", "timeout", "search-backend", "cirrussearch")


class Commons:
    """Offers the pictures that a full-text search over file pages finds, the most relevant first."""

    summary: ClassVar[str] = "Wikimedia Commons: free pictures of everything, with author and license"
    terms: ClassVar[str] = "free licenses, credit as given; no key; https://foundation.wikimedia.org/wiki/Terms_of_Use"
    page_size: ClassVar[int | None] = 50
    depth: ClassVar[int | None] = 10_000

    def __init__(self, config: SourceConfig) -> None:
        self._api = config.base_url or _API

    def missing(self) -> str | None:
        """Nothing: it needs no key."""
        return None

    async def search(self, query: Query, downloader: Downloader) -> Page:
        """Return one page of pictures. There is no filter for adult content.

        Raises:
            TransientError: when the servers are busy, lagging or away.
            PermanentError: when they refuse the search, or answer something else than the API does.
        """
        asked = _parameters(query)
        parts: list[_Answer] = []
        going_on: dict[str, str | int] = {}
        while len(parts) < _MOST_PARTS:
            part = _read(await api.ask(downloader, "commons", self._api, asked | going_on))
            stands_still = part.going_on == going_on
            parts.append(part)
            going_on = part.going_on
            if part.batchcomplete or not going_on or stands_still:
                break
        files = _merged(parts)
        return Page(tuple(_candidates(files, query)), more="gsroffset" in going_on and bool(files))


def _parameters(query: Query) -> dict[str, str | int]:
    width = next((step for step in _WIDTHS if step >= query.min_width), _WIDTHS[-1])
    return {
        "action": "query",
        "format": "json",
        "formatversion": 2,
        "maxlag": 5,
        "generator": "search",
        "gsrsearch": f"filetype:bitmap {query.text}",
        "gsrnamespace": 6,
        "gsrlimit": query.page_size,
        "gsroffset": query.page * query.page_size,
        "gsrsort": "relevance",
        "prop": "imageinfo",
        "iiprop": "url|size|mime|mediatype|extmetadata",
        "iiextmetadatafilter": _METADATA,
        "iiurlwidth": width,
    }


class _Query(BaseModel):
    pages: list[dict[str, Any]] = []


class _Answer(BaseModel):
    """A part of a batch: every part names all its files, but tells of some only.

    `going_on` has to be sent back, unchanged, for what comes next.
    """

    batchcomplete: bool = False
    going_on: dict[str, str | int] = Field({}, alias="continue")
    query: _Query = _Query()


class _Error(BaseModel):
    code: str
    info: str = ""


class _File(BaseModel):
    """What `imageinfo` tells of a file, as far as it is used."""

    url: str
    mediatype: str
    width: int | None = None
    height: int | None = None
    thumburl: str | None = None
    thumbwidth: int | None = None
    thumbheight: int | None = None
    descriptionurl: str | None = None
    extmetadata: dict[str, Any] | list[Any] = {}  # PHP writes an empty object as an empty list.

    def text(self, name: str) -> str:
        """Return a field of the file's description as plain text; nothing when it is missing."""
        entry = self.extmetadata.get(name) if isinstance(self.extmetadata, dict) else None
        return _plain(str(entry.get("value", ""))) if isinstance(entry, dict) else ""


def _read(answer: Answer) -> _Answer:
    """Return a part of a batch.

    Raises:
        TransientError: on an error that passes; the API's errors come with status 200 as well.
        PermanentError: on any other, and on what is no answer of the API.
    """
    data = answer.data
    if isinstance(data, dict) and "error" in data:
        error = _validated(_Error, data["error"])
        told = f"commons answered the error {error.code}: {error.info}"[:300]
        if error.code in _BUSY:
            raise TransientError(told, retry_after=answer.retry_after or _REST)
        raise (TransientError if error.code.startswith(_PASSING) else PermanentError)(told)
    if not isinstance(data, dict) or data.keys().isdisjoint({"batchcomplete", "continue", "query"}):
        data = None
    return _validated(_Answer, data)


def _validated(model: type[T], data: object) -> T:
    try:
        return model.model_validate(data)
    except ValidationError:
        raise PermanentError(
            "commons answered with something else than a search: is PIXCRAWLER_COMMONS_URL right?"
        ) from None


def _merged(parts: Iterable[_Answer]) -> list[dict[str, Any]]:
    """Return what all parts tell of each file, the most relevant first: the API does not order them."""
    found: dict[object, dict[str, Any]] = {}
    for page in (page for part in parts for page in part.query.pages):
        key = page.get("pageid")
        found[key] = found.get(key, {}) | page
    return sorted(found.values(), key=_rank)


def _rank(page: Mapping[str, Any]) -> int:
    index = page.get("index")
    return index if isinstance(index, int) else 0


def _candidates(pages: Iterable[Mapping[str, Any]], query: Query) -> Iterator[Candidate]:
    for page in pages:
        described = page.get("imageinfo") or [None]
        # A file that is missing has no description. An odd one costs its neighbors nothing.
        with contextlib.suppress(ValidationError, LookupError):
            file = _File.model_validate(described[0])
            if file.mediatype == "BITMAP":
                yield _candidate(file, str(page.get("title", "")), query)


def _candidate(file: _File, page_title: str, query: Query) -> Candidate:
    credit = _credit(file, page_title)
    enough = (file.thumbwidth or 0) >= query.min_width and (file.thumbheight or 0) >= query.min_height
    if file.thumburl and enough:
        return Candidate(url=file.thumburl, credit=credit, width=file.thumbwidth, height=file.thumbheight)
    return Candidate(url=file.url, credit=credit, width=file.width, height=file.height)


def _credit(file: _File, page_title: str) -> Credit:
    title = file.text("ObjectName") or page_title.removeprefix("File:").rpartition(".")[0]
    author = file.text("Artist")
    names = [file.text(name) for name in ("LicenseUrl", "License", "LicenseShortName")]
    known = next(filter(None, map(licenses.normalized, names)), names[2] or names[1])
    line = ", ".join(filter(None, (f"{title} by {author}" if author else title, names[2], "via Wikimedia Commons")))
    return Credit(
        page_url=file.descriptionurl,
        title=title or None,
        author=author or None,
        license=licenses.named(known),
        license_url=names[0] or None,
        attribution=file.text("Attribution") or line,
    )


class _Text(HTMLParser):
    """What a reader sees of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def _plain(html: str) -> str:
    """Return the text of a field that editors may fill with HTML, in one line."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())

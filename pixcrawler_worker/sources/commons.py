"""Wikimedia Commons, by MediaWiki's Action API (https://commons.wikimedia.org/w/api.php).

A page of candidates is one search with `gsroffset`; its files come with their licenses. Files are taken as thumbnails
of a width that Wikimedia keeps ready (https://www.mediawiki.org/wiki/Common_thumbnail_sizes), since originals of 10 MB
are more than a dataset needs, and more than its servers like to send to robots.

A search has 10,000 files. Beyond that those of each range of widths are searched, of which each has fewer.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Part, Side, Text, text_of
from pixcrawler_worker.sources.html_text import visible_text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.slices import Slice, Slices
from pixcrawler_worker.web.http import AsyncClient, Response, read_json, retry_after_of

T = TypeVar("T", bound=BaseModel)

_API = "https://commons.wikimedia.org/w/api.php"
#: Widths in pixels, from the one that suits most datasets upwards; others are rounded up to the next, or throttled.
_WIDTHS = (1280, 1920, 3840)
#: Smaller ones, for a target.
_SMALLER_WIDTHS = (250, 330, 500, 960)
#: The width in the URL of a thumbnail.
_WIDTH = re.compile(r"/((?:loss(?:y|less)-)?(?:page\d+-)?)(\d+)px-(?=[^/]*$)")
_FIXED: dict[str, str | int] = {"action": "query", "format": "json", "formatversion": 2, "maxlag": 5}
_DEPTH = 10_000
#: Pixels: wider files are panoramas, which the last range has.
_MAX_WIDTH = 1_000_000
_METADATA = "LicenseShortName|License|LicenseUrl|Artist|Attribution|ObjectName"
#: Responses to one search: the server may cut a batch into parts, but not into more than its files.
_MAX_PARTS = 100
#: How long to wait when the servers do not say: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter
_DEFAULT_RETRY_AFTER = timedelta(seconds=5)
#: Errors that may pass (https://www.mediawiki.org/wiki/API:Errors_and_warnings), with a Retry-After and without one.
_BUSY = frozenset({"maxlag", "ratelimited"})
#: Characters of a description that are read: credits are short.
_MAX_HTML = 20_000
_PASSING = ("internal_api_error", "readonly", "timeout", "search-backend", "cirrussearch")


class Commons(Source):
    """Offers the images that a full-text search over file pages finds, the most relevant first."""

    summary: ClassVar[str] = "Wikimedia Commons: free images of everything, with author and license"
    terms: ClassVar[str] = "free licenses, credit as given; no key; https://foundation.wikimedia.org/wiki/Terms_of_Use"
    page_size: ClassVar[int | None] = 50

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._api = config.base_url or _API
        self._slices = Slices(depth=_DEPTH, split=_split)

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images. There is no filter for adult content.

        Raises:
            TransientError: when the servers are busy, lagging or away.
            PermanentError: when they reject the search, or the response is not the API's.
        """
        words = answers.words(query, "commons")

        async def count(part: Slice) -> int:
            parameters: dict[str, str | int] = {
                "list": "search",
                "srsearch": _searched(part),
                "srnamespace": 6,
                "srlimit": 1,
                "srinfo": "totalhits",
                "srprop": "",
            }
            counted = _read(await http.get(self._api, params=_FIXED | parameters))
            return counted.query.searchinfo.totalhits or 0

        root: Slice = (("words", words),)
        place = await self._slices.find(root, query.page, query.page_size, count=count)
        if place is None:
            return Page((), more=False)
        parameters = _parameters(query, *place)
        parts: list[_Part] = []
        continuation: dict[str, str | int] = {}
        while len(parts) < _MAX_PARTS:
            part = _read(await http.get(self._api, params=parameters | continuation))
            repeats = part.continuation == continuation
            parts.append(part)
            continuation = part.continuation
            if part.batchcomplete or not continuation or repeats:
                break
        files = _merged(parts)
        candidates, invalid = _candidates(files, query)
        odd = sum(not isinstance(page, dict) for part in parts for page in part.query.pages)
        # A page may be empty although there are more: what it had was removed meanwhile.
        return Page(candidates, "gsroffset" in continuation or place[0] != root, invalid=odd + invalid)


def _searched(part: Slice) -> str:
    """Return the text of a search: CirrusSearch has a keyword for widths, whose ranges include both ends."""
    values = dict(part)
    widths = f" filew:{values['min']},{values['max']}" if "min" in values else ""
    return f"filetype:bitmap {values['words']}{widths}"


def _split(part: Slice) -> Sequence[Slice]:
    values = dict(part)
    first, last = int(values.get("min", 1)), int(values.get("max", _MAX_WIDTH))
    if first >= last:
        return []
    # There are about as many files of 500 to 1,000 pixels as of 1,000 to 2,000.
    middle = min(math.isqrt(first * last), last - 1)
    ranges = ((middle + 1, last), (first, middle))
    return [(("words", values["words"]), ("min", low), ("max", high)) for low, high in ranges]


def _parameters(query: Query, part: Slice, page: int) -> dict[str, str | int]:
    width = next((step for step in _WIDTHS if step >= query.min_width), _WIDTHS[-1])
    return _FIXED | {
        "generator": "search",
        "gsrsearch": _searched(part),
        "gsrnamespace": 6,
        "gsrlimit": query.page_size,
        "gsroffset": page * query.page_size,
        "gsrsort": "relevance",
        "prop": "imageinfo",
        "iiprop": "url|size|mime|mediatype|extmetadata",
        "iiextmetadatafilter": _METADATA,
        "iiurlwidth": width,
    }


def _object(value: object) -> object:
    """Return an object: PHP writes an empty one as an empty array."""
    return {} if value is None or value == [] else value


def _entries(value: object) -> object:
    """Return a list of entries: older formats have them by their ids."""
    if isinstance(value, dict) and value:
        return list(value.values())
    return [] if value is None else value


def _continuation(value: object) -> object:
    """Return what can be sent back."""
    if not isinstance(value, dict):
        return {}
    return {name: sent for name, sent in value.items() if isinstance(sent, str | int) and not isinstance(sent, bool)}


class _SearchInfo(BaseModel):
    totalhits: Count = None


class _Query(BaseModel):
    searchinfo: Part[_SearchInfo] = _SearchInfo()
    pages: Annotated[list[Any], BeforeValidator(_entries)] = []


class _Part(BaseModel):
    """A part of a batch: every part names all its files, but describes some only.

    `continuation` has to be sent back, unchanged, for the next part.
    """

    # Older formats have an empty text in place of true.
    batchcomplete: Annotated[bool, BeforeValidator(lambda value: value is not None and value is not False)] = False
    continuation: Annotated[dict[str, str | int], BeforeValidator(_continuation)] = Field({}, alias="continue")
    query: Annotated[_Query, BeforeValidator(_object)] = _Query()


class _Error(BaseModel):
    code: str
    info: str = ""


class _File(BaseModel):
    """The fields of `imageinfo` that are used."""

    url: str
    mediatype: Text = None
    width: Side = None
    height: Side = None
    thumburl: Text = None
    thumbwidth: Side = None
    thumbheight: Side = None
    descriptionurl: Text = None
    extmetadata: Any = None  # PHP writes an empty object as an empty list.

    def text(self, name: str) -> str:
        """Return a field of the file's description as plain text; nothing when it is missing."""
        entry = self.extmetadata.get(name) if isinstance(self.extmetadata, dict) else None
        value = entry.get("value") if isinstance(entry, dict) else None
        return visible_text(text_of(value) or "", max_length=_MAX_HTML)


def _read(response: Response) -> _Part:
    """Return a part of a batch.

    Raises:
        TransientError: on an error that passes; the API's errors come with status 200 as well.
        PermanentError: on any other, and on what is not a response of the API.
    """
    data = read_json(response, "commons")
    if isinstance(data, dict) and data.get("error"):
        error = _validated(_Error, data["error"])
        message = f"commons answered the error {error.code}: {error.info}"[:300]
        if error.code in _BUSY:
            raise TransientError(message, retry_after=retry_after_of(response) or _DEFAULT_RETRY_AFTER)
        raise (TransientError if error.code.startswith(_PASSING) else PermanentError)(message)
    if not isinstance(data, dict) or data.keys().isdisjoint({"batchcomplete", "continue", "query"}):
        data = None
    return _validated(_Part, data)


def _validated(model: type[T], data: object) -> T:
    try:
        return model.model_validate(data)
    except ValidationError:
        raise PermanentError(
            "commons answered with something else than a search: is PIXCRAWLER_COMMONS_URL right?"
        ) from None


def _merged(parts: Iterable[_Part]) -> list[dict[str, Any]]:
    """Return the files with what all parts say of them, the most relevant first: the API does not order them."""
    found: dict[object, dict[str, Any]] = {}
    for part in parts:
        ids: set[object] = set()
        for page in part.query.pages:
            if isinstance(page, dict):
                names = (page.get("pageid"), page.get("title"))
                name = next((one for one in names if isinstance(one, int | str) and not isinstance(one, bool)), None)
                # What has no id, or one that the part has already, is no part of another entry.
                key: object = object() if name is None or name in ids else name
                ids.add(key)
                found[key] = found.get(key, {}) | page
    return sorted(found.values(), key=_rank)


def _rank(page: Mapping[str, Any]) -> int:
    index = page.get("index")
    return index if isinstance(index, int) else 0


def _candidates(pages: Iterable[Mapping[str, Any]], query: Query) -> tuple[tuple[Candidate, ...], int]:
    """Return the candidates, and the number of entries that are no files, or that no part of the batch describes."""
    found: list[Candidate] = []
    invalid = 0
    for page in pages:
        described = page.get("imageinfo")
        try:
            file = _File.model_validate(described[0] if isinstance(described, list) and described else None)
        except ValidationError:
            invalid += 1
            continue
        # Sounds, films and drawings are no candidates.
        if file.mediatype in {"BITMAP", None}:
            found.append(_candidate(file, text_of(page.get("title")) or "", query))
    return tuple(found), invalid


def _candidate(file: _File, page_title: str, query: Query) -> Candidate:
    credit = _credit(file, page_title)
    if query.target_side is not None and (found := sizes.candidate(_sizes(file), query, credit)):
        return found
    enough = (file.thumbwidth or 0) >= query.min_width and (file.thumbheight or 0) >= query.min_height
    if file.thumburl and enough:
        return Candidate(url=file.thumburl, credit=credit, width=file.thumbwidth, height=file.thumbheight)
    return Candidate(url=file.url, credit=credit, width=file.width, height=file.height)


def _sizes(file: _File) -> list[sizes.Size]:
    """Return the original and its thumbnails of the widths that Wikimedia keeps ready."""
    found = [sizes.Size(file.url, file.width, file.height)]
    if not file.thumburl or file.thumburl == file.url:
        return found
    named = _WIDTH.search(file.thumburl)
    if named is None or int(named[2]) != file.thumbwidth or not (file.width and file.height):
        return [sizes.Size(file.thumburl, file.thumbwidth, file.thumbheight), *found]
    widths = [width for width in (*_SMALLER_WIDTHS, *_WIDTHS) if width < file.width]
    return [
        *(
            sizes.Size(_WIDTH.sub(rf"/\g<1>{width}px-", file.thumburl), *sides)
            for width in widths
            if (sides := sizes.of_width(file.width, file.height, width))
        ),
        *found,
    ]


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
        license=licenses.identifier(known),
        license_url=names[0] or None,
        attribution=file.text("Attribution") or line,
    )

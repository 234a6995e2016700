"""Pixabay, by its API (https://pixabay.com/api/docs/).

Its errors are plain text, it returns 500 images for a search, and its responses have to be kept for 24 hours.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.quota import Quota, utc_now
from pixcrawler_worker.sources.slices import Slice, Slices
from pixcrawler_worker.web.http import AsyncClient

_API = "https://pixabay.com/api/"
_LICENSE, _LICENSE_URL = "licenseref-pixabay", "https://pixabay.com/service/license-summary/"
_DEPTH, _MIN_PAGE, _MAX_PAGE, _MAX_WORDS = 500, 3, 200, 100
#: Longest sides in pixels of the sizes that it offers.
_MEDIUM, _LARGE, _FULL_HD = 640, 1280, 1920
_KEPT_FOR, _MAX_KEPT = timedelta(hours=24), 256
_CATEGORIES = (
    *("backgrounds", "fashion", "nature", "science", "education", "feelings", "health", "people", "religion", "places"),
    *(
        "animals",
        "industry",
        "computer",
        "food",
        "sports",
        "transportation",
        "travel",
        "buildings",
        "business",
        "music",
    ),
)


class Pixabay(Source):
    """Offers the photos that a search finds, and beyond 500 those of its orientations and categories."""

    summary: ClassVar[str] = "Pixabay: stock photos, with uploader"
    terms: ClassVar[str] = (
        "Pixabay Content License, credit is welcome; a key, 100 requests a minute; systematic mass downloads are not "
        "allowed; https://pixabay.com/api/docs/"
    )
    page_size: ClassVar[int | None] = 100

    def __init__(self, config: SourceConfig, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(config)
        self._api = config.base(_API)
        self._now = now
        self._quota = Quota("pixabay", window=timedelta(minutes=1), now=now)
        self._slices = Slices(depth=_DEPTH, split=_split)
        self._kept: OrderedDict[Slice, tuple[datetime, _Results]] = OrderedDict()

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        return None if self.config.api_key else "set PIXCRAWLER_PIXABAY_API_KEY (https://pixabay.com/api/docs/)"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of photos.

        Raises:
            TransientError: when the quota is exhausted; with the time until there is more.
            httpx.HTTPStatusError: when the API is away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        answers.key(self, "pixabay")
        words = answers.words(query, "pixabay")
        if len(words) > _MAX_WORDS:
            raise PermanentError(f"pixabay cannot search for more than {_MAX_WORDS} characters, here {len(words)}")
        if not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)

        async def count(part: Slice) -> int:
            return (await self._results(part, 1, _MIN_PAGE, http)).total or 0

        root = _root(words, query)
        place = await self._slices.find(root, query.page, query.page_size, count=count)
        if place is None:
            return Page((), more=False)
        part, page = place
        # The provider's pages have three entries at least: a multiple of the requested ones.
        times = math.ceil(_MIN_PAGE / query.page_size)
        results = await self._results(part, page // times + 1, query.page_size * times, http)
        start = page % times * query.page_size
        hits = results.hits[start : start + query.page_size]
        if results.total is not None:
            self._slices.know(part, results.total)
        offered, invalid = answers.candidates(_Hit, hits, lambda one: one.candidate(query))
        more = part != root or answers.continues(hits, query, total=results.total, depth=_DEPTH)
        more = more or self._slices.continues(root, page, query.page_size)
        return Page(offered, more, invalid=invalid)

    async def _results(self, part: Slice, page: int, page_size: int, http: AsyncClient) -> "_Results":
        """Return a page of the provider, from its last 24 hours where it has been requested in them."""
        wanted = (*part, ("page", page), ("per_page", page_size))
        known = self._kept.get(wanted)
        if known is not None and self._now() < known[0] + _KEPT_FOR:
            return known[1]
        self._quota.require()
        response = await http.get(self._api, params={**dict(wanted), "key": self.config.api_key or ""})
        self._quota.note(response)
        is_rejected = response.status_code == HTTPStatus.BAD_REQUEST
        if is_rejected and b'"page" is out of valid range' in response.content:
            found = _Results(hits=[], totalHits=0)
        elif is_rejected or response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            if not is_rejected or b"key" in response.content.lower():
                raise answers.key_error(response, "pixabay", self.config.api_key)
            text = answers.without_key(response, self.config.api_key).content[:200].decode("utf-8", "replace")
            raise PermanentError(f"pixabay answered {response.status_code}: {' '.join(text.split())}")
        else:
            found = answers.parsed(_Results, answers.read(response, "pixabay", key=self.config.api_key), "pixabay")
        self._kept.pop(wanted, None)
        self._kept[wanted] = self._now(), found
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return found


def _root(words: str, query: Query) -> Slice:
    minimum = {
        name: side for name, side in (("min_width", query.min_width), ("min_height", query.min_height)) if side > 1
    }
    return (
        ("q", words),
        ("image_type", "photo"),
        ("safesearch", "true" if query.safe_search else "false"),
        *minimum.items(),
    )


def _split(part: Slice) -> Sequence[Slice]:
    names = {name for name, _ in part}
    if "orientation" not in names:
        return [(*part, ("orientation", one)) for one in ("horizontal", "vertical")]
    return [] if "category" in names else [(*part, ("category", one)) for one in _CATEGORIES]


class _Results(BaseModel):
    """A response; the number is of those that can be reached."""

    hits: list[Any]
    total: Count = Field(None, alias="totalHits")


class _Hit(BaseModel):
    """One of the results, as far as it is used. The sizes are those of the original, which few keys may have."""

    medium: Text = Field(None, alias="webformatURL")
    large: Text = Field(None, alias="largeImageURL")
    full_hd: Text = Field(None, alias="fullHDURL")
    original: Text = Field(None, alias="imageURL")
    width: Side = Field(None, alias="imageWidth")
    height: Side = Field(None, alias="imageHeight")
    page: Text = Field(None, alias="pageURL")
    tags: Text = None
    user: Text = None

    def candidate(self, query: Query) -> Candidate | None:
        files = [(self.original, 2**31), (self.full_hd, _FULL_HD), (self.large, _LARGE)]
        if query.target_side is not None:
            files.insert(0, (self.medium, _MEDIUM))
        offered = [
            sizes.Size(url, *(sizes.scaled(self.width, self.height, longest) or (None, None)))
            for url, longest in files
            if url
        ]
        credit = Credit(
            page_url=self.page,
            title=self.tags,
            author=self.user,
            license=_LICENSE,
            license_url=_LICENSE_URL,
            attribution=f"Image by {self.user} from Pixabay" if self.user else "Image from Pixabay",
        )
        return sizes.candidate(offered, query, credit)

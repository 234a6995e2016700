"""Flickr, by its API (https://www.flickr.com/services/api/flickr.photos.search.html).

Beyond some 4,000 photos a search repeats itself, without an error. So there a search is divided by the time of upload,
again and again, until each part is small enough. Its errors have the status 200.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Listed, Part, Text, side_of, text_of
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.slices import Slice, Slices
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.flickr.com/services/rest/"
#: Below what is returned without repetitions, since the number of results is an estimate.
_DEPTH = 3_000
#: Unix times: all photos were uploaded between them. They are fixed, so that the parts of a search are always the same.
_FIRST, _LAST = 1_075_593_600, 2_209_032_000  # 2004-02-01, 2040-01-01
#: Parts of a search that are shorter are not divided: seconds.
_SHORTEST = 300
#: Suffixes of the fields of sizes, of which not every photo has each.
_SIZES = ("s", "n", "m", "z", "c", "l", "h", "k", "o")
_EXTRAS = ",".join(("license", "owner_name", *(f"url_{size}" for size in _SIZES)))
#: Licenses that the API has had for long, by its ids. 0 has all rights reserved.
_LICENSES = {
    "1": "cc-by-nc-sa-2.0",
    "2": "cc-by-nc-2.0",
    "3": "cc-by-nc-nd-2.0",
    "4": "cc-by-2.0",
    "5": "cc-by-sa-2.0",
    "6": "cc-by-nd-2.0",
    "7": "licenseref-no-known-copyright-restrictions",
    "8": "public-domain",
    "9": "cc0-1.0",
    "10": "cc-pdm-1.0",
}
#: Errors that pass: the search, or the whole API, is unavailable.
_PASSING = frozenset({"10", "105"})
_BAD_KEY = "100"


class Flickr(Source):
    """Offers the photos with an open license that a search finds, the most relevant first, then by time of upload."""

    summary: ClassVar[str] = "Flickr: photos of people and institutions, with author and license"
    terms: ClassVar[str] = (
        "open licenses of each photo, credit as given; a key, 3,600 requests an hour; "
        "https://www.flickr.com/services/api/tos/"
    )
    page_size: ClassVar[int | None] = 500

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._api = config.base_url or _API
        self._slices = Slices(depth=_DEPTH, split=_split)
        self._licenses: dict[str, str] = {}

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        where = "https://www.flickr.com/services/apps/create/"
        return None if self.config.api_key else f"set PIXCRAWLER_FLICKR_API_KEY ({where})"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of photos.

        Raises:
            TransientError: when the search is unavailable.
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        answers.key(self, "flickr")
        words = answers.words(query, "flickr")
        known = await self._known_licenses(http)
        wanted = [id_ for id_, license_ in known.items() if licenses.is_allowed(license_, query.licenses)]
        if not wanted:
            return Page((), more=False)
        root: Slice = (
            ("text", words),
            ("license", ",".join(wanted)),
            ("sort", "relevance"),
            ("safe_search", 1 if query.safe_search else 3),
            ("content_types", 0),
            ("media", "photos"),
        )

        async def count(part: Slice) -> int:
            return (await self._photos(part, 1, 1, http)).total or 0

        place = await self._slices.find(root, query.page, query.page_size, count=count)
        if place is None:
            return Page((), more=False)
        part, page = place
        photos = await self._photos(part, page + 1, query.page_size, http)
        total = photos.total
        if total is not None:
            self._slices.know(part, total)
        # Beyond its last page the API repeats that one.
        is_beyond = page > 0 and total is not None and total <= page * query.page_size
        found = [] if is_beyond else photos.photo
        offered, invalid = answers.candidates(_Photo, found, lambda one: one.candidate(query, known))
        more = part != root or answers.continues(found, query, total=total, depth=_DEPTH)
        more = more or self._slices.continues(root, page, query.page_size)
        return Page(offered, more, invalid=invalid)

    async def _known_licenses(self, http: AsyncClient) -> Mapping[str, str]:
        """Return the identifiers of all open licenses, by the API's ids, which it may add to."""
        if not self._licenses:
            data = await self._call(http, method="flickr.photos.licenses.getInfo")
            listed = answers.parsed(_Licenses, data, "flickr").licenses.license
            named = {
                one.id: licenses.normalized(one.url or "")
                for one in listed
                if one.id not in {None, "0"} and one.id not in _LICENSES
            }
            self._licenses = _LICENSES | {id_: license_ for id_, license_ in named.items() if id_ and license_}
        return self._licenses

    async def _photos(self, part: Slice, page: int, page_size: int, http: AsyncClient) -> "_Photos":
        data = await self._call(
            http, method="flickr.photos.search", page=page, per_page=page_size, extras=_EXTRAS, **dict(part)
        )
        return answers.parsed(_Results, data, "flickr").photos

    async def _call(self, http: AsyncClient, **parameters: str | int) -> object:
        key = self.config.api_key
        fixed: dict[str, str | int] = {"api_key": key or "", "format": "json", "nojsoncallback": 1}
        data = answers.read(await http.get(self._api, params=parameters | fixed), "flickr", key=key)
        if isinstance(data, dict) and data.get("stat") == "fail":
            code, said = (
                text_of(data.get("code")) or "",
                answers.hidden(answers.said_in(data), key) or "without a reason",
            )
            hint = answers.key_hint("flickr") if code == _BAD_KEY else ""
            kind = TransientError if code in _PASSING else PermanentError
            raise kind(f"flickr answered the error {code}: {said[:150]}{hint}")
        return data


def _split(part: Slice) -> Sequence[Slice]:
    values = dict(part)
    first, last = int(values.get("min_upload_date", _FIRST)), int(values.get("max_upload_date", _LAST))
    if last - first < 2 * _SHORTEST:
        return []
    middle = (first + last) // 2
    rest = tuple(one for one in part if one[0] not in {"min_upload_date", "max_upload_date"})
    # Both ends are included. The newer photos come first.
    return [
        (*rest, ("min_upload_date", start), ("max_upload_date", end))
        for start, end in ((middle + 1, last), (first, middle))
    ]


class _Photos(BaseModel):
    photo: list[Any]
    total: Count = None


class _Results(BaseModel):
    photos: _Photos


class _License(BaseModel):
    id: Text = None
    url: Text = None


class _ListedLicenses(BaseModel):
    license: Listed[_License]


class _Licenses(BaseModel):
    licenses: Part[_ListedLicenses]


class _Photo(BaseModel):
    """One of the results, as far as it is used. Each size has fields of its own."""

    model_config = ConfigDict(extra="allow")

    id: Text = None
    owner: Text = None
    title: Text = None
    ownername: Text = None
    license: Text = None

    def candidate(self, query: Query, known: Mapping[str, str]) -> Candidate | None:
        fields = self.model_extra or {}
        offered = [
            sizes.Size(url, side_of(fields.get(f"width_{size}")), side_of(fields.get(f"height_{size}")))
            for size in _SIZES
            if (url := text_of(fields.get(f"url_{size}")))
        ]
        license_id = known.get(self.license or "")
        title, author = self.title or None, self.ownername or None
        credit = Credit(
            page_url=f"https://www.flickr.com/photos/{self.owner}/{self.id}" if self.owner and self.id else None,
            title=title,
            author=author,
            license=license_id,
            license_url=licenses.deed_url(license_id or ""),
            attribution=answers.attribution(title, author, license_id, "via Flickr"),
        )
        return sizes.candidate(offered, query, credit)

"""iNaturalist, by its API (https://api.inaturalist.org/v1/docs/): photos of living things that people have observed.

A candidate is the first photo of an observation: the others show the same plant or animal from another side.
"""

import re
from typing import Any, ClassVar

from pydantic import BaseModel

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Listed, Part, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.inaturalist.org/v1/"
#: iNaturalist's names of licenses are those of the families.
_LICENSES = ("cc0", "cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd")
#: Longest side in pixels of the two sizes that are large enough for most datasets, and of the smaller ones.
_LARGE, _ORIGINAL = 1024, 2048
_SMALLER = (("small", 240), ("medium", 500))
_SIZE = re.compile(r"/(?:square|thumb|small|medium|large|original)\.")
_DEPTH = 10_000


class INaturalist(Source):
    """Offers photos of observations whose names match, with an open license, as experts have confirmed them."""

    summary: ClassVar[str] = "iNaturalist: photos of animals, plants and fungi, by scientific and common names"
    terms: ClassVar[str] = (
        "open licenses of each photo, most of them non-commercial, credit as given; no key, 60 requests a minute and "
        "10,000 a day; https://www.inaturalist.org/pages/terms"
    )
    page_size: ClassVar[int | None] = 200
    depth: ClassVar[int | None] = _DEPTH
    specialized: ClassVar[bool] = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._observations = config.base(_API) + "observations"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of photos.

        Raises:
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        names = answers.words(query, "inaturalist")
        wanted = [name for name in _LICENSES if query.licenses is None or name in map(licenses.family, query.licenses)]
        end = (query.page + 1) * query.page_size
        if not wanted or end > _DEPTH:
            return Page((), more=False)
        response = await http.get(
            self._observations,
            params={
                "q": names,
                "search_on": "names",
                "photos": "true",
                "photo_license": ",".join(wanted),
                "quality_grade": "research",
                "order_by": "id",
                "order": "desc",
                "page": query.page + 1,
                "per_page": query.page_size,
            },
        )
        found = answers.parsed(_Results, answers.read(response, "inaturalist"), "inaturalist")
        offered, invalid = answers.candidates(_Observation, found.results, lambda one: one.candidate(query, wanted))
        more = answers.continues(found.results, query, total=found.total_results, depth=_DEPTH)
        return Page(offered, more, invalid=invalid)


class _Results(BaseModel):
    results: list[Any]
    total_results: Count = None


class _Dimensions(BaseModel):
    width: Side = None
    height: Side = None


class _Photo(BaseModel):
    url: Text = None
    license_code: Text = None
    attribution: Text = None
    original_dimensions: Part[_Dimensions] = _Dimensions()


class _Taxon(BaseModel):
    name: Text = None


class _User(BaseModel):
    name: Text = None
    login: Text = None


class _Observation(BaseModel):
    """One of the results, as far as it is used."""

    photos: Listed[_Photo]
    uri: Text = None
    species_guess: Text = None
    taxon: Part[_Taxon] = _Taxon()
    user: Part[_User] = _User()

    def candidate(self, query: Query, wanted: list[str]) -> Candidate | None:
        # One observation may have photos under several licenses, and some without one.
        photo = next((one for one in self.photos if one.url and one.license_code in wanted), None)
        if photo is None or photo.url is None:
            return None
        width, height = photo.original_dimensions.width, photo.original_dimensions.height
        names = [("large", _LARGE), ("original", _ORIGINAL)]
        if query.target_side is not None:
            names = [*_SMALLER, *names]
        # Without dimensions the larger one would be taken, which only a larger minimum or target needs.
        if not (width and height) and max(query.min_width, query.min_height, query.target_side or 0) <= _LARGE:
            names.remove(("original", _ORIGINAL))
        offered = [
            sizes.Size(_SIZE.sub(f"/{name}.", photo.url), *(sizes.scaled(width, height, longest) or (None, None)))
            for name, longest in names
        ]
        license_ = licenses.identifier(photo.license_code or "")
        title, author = self.taxon.name or self.species_guess, self.user.name or self.user.login
        credit = Credit(
            page_url=self.uri,
            title=title,
            author=author,
            license=license_,
            attribution=photo.attribution or answers.attribution(title, author, license_, "via iNaturalist"),
        )
        return sizes.candidate(offered, query, credit)

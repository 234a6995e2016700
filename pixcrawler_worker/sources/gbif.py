"""GBIF, by its API (https://techdocs.gbif.org/en/openapi/): occurrences of species with images.

A candidate is the first image of an occurrence: the others show the same specimen.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers
from pixcrawler_worker.sources.fields import Flag, Listed, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.gbif.org/v1/"
#: GBIF's names of the licenses of occurrences, by family: publishers have no other choice.
_LICENSES = {"cc0": "CC0_1_0", "cc-by": "CC_BY_4_0", "cc-by-nc": "CC_BY_NC_4_0"}
_DEPTH = 100_000


class Gbif(Source):
    """Offers images of occurrences that a full-text search finds."""

    summary: ClassVar[str] = "GBIF: images of species from museums and observers; scientific names find most"
    terms: ClassVar[str] = (
        "CC0, CC BY and CC BY-NC, credit as given; no key, fewer requests when it asks for that; "
        "https://www.gbif.org/terms"
    )
    page_size: ClassVar[int | None] = 300
    depth: ClassVar[int | None] = _DEPTH
    specialized: ClassVar[bool] = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._occurrences = config.base(_API) + "occurrence/search"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = answers.words(query, "gbif")
        families = None if query.licenses is None else set(map(licenses.family, query.licenses))
        wanted = [name for family, name in _LICENSES.items() if families is None or family in families]
        offset = query.page * query.page_size
        if not wanted or offset + query.page_size > _DEPTH:
            return Page((), more=False)
        parameters = {"q": words, "mediaType": "StillImage", "license": wanted}
        response = await http.get(self._occurrences, params=parameters | {"offset": offset, "limit": query.page_size})
        found = answers.parsed(_Results, answers.read(response, "gbif"), "gbif")
        offered, invalid = answers.candidates(_Occurrence, found.results, lambda one: one.candidate())
        more = bool(found.results) if found.end_of_records is None else not found.end_of_records
        return Page(offered, more and offset + 2 * query.page_size <= _DEPTH, invalid=invalid)


class _Results(BaseModel):
    results: list[Any]
    end_of_records: Flag = Field(None, alias="endOfRecords")


class _Media(BaseModel):
    identifier: Text = None
    type: Text = None
    license: Text = None
    title: Text = None
    creator: Text = None
    references: Text = None
    rights_holder: Text = Field(None, alias="rightsHolder")


class _Occurrence(BaseModel):
    """One of the results, as far as it is used."""

    media: Listed[_Media]
    key: Text = None
    species: Text = None
    scientific_name: Text = Field(None, alias="scientificName")
    license: Text = None
    recorded_by: Text = Field(None, alias="recordedBy")

    def candidate(self) -> Candidate | None:
        # Sounds and films of the same occurrence are in the list, too.
        image = next((one for one in self.media if one.identifier and one.type in {"StillImage", None}), None)
        if image is None or image.identifier is None:
            return None
        author = image.creator or image.rights_holder or self.recorded_by
        title = image.title or self.species or self.scientific_name
        # A publisher may write anything there, reserved rights, too. What the occurrence has is the license of its
        # data, and of the images that name none.
        license_id = licenses.identifier((image.license or "").strip() or self.license or "")
        page = f"https://www.gbif.org/occurrence/{self.key}" if self.key else image.references
        credit = Credit(
            page_url=page,
            title=title,
            author=author,
            license=license_id,
            license_url=licenses.deed_url(license_id or ""),
            attribution=answers.attribution(title, author, license_id, "via GBIF.org") or None,
        )
        return Candidate(url=image.identifier, credit=credit)

"""A source as an author writes it: plain httpx, and nothing of the worker but the types of what it returns."""

import httpx

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source


class Aquarium(Source):
    """Offers the photographs of an aquarium's API."""

    summary = "photographs of fish, with photographer"
    terms = "CC0; https://aquarium.example/terms"
    page_size = 20
    depth = 2000

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        return None if self.config.api_key else "set PIXCRAWLER_AQUARIUM_API_KEY"

    async def search(self, query: Query, http: httpx.AsyncClient) -> Page:
        """Return one page of photographs."""
        response = await http.get(
            f"{self.config.base_url or 'https://aquarium.example'}/photos",
            params={"q": query.text, "offset": query.page * query.page_size, "limit": query.page_size},
            headers={"Authorization": f"Bearer {self.config.api_key}"},
        )
        response.raise_for_status()
        data = response.json()
        candidates = tuple(self._candidate(photo) for photo in data["photos"])
        return Page(candidates, more=data["total"] > (query.page + 1) * query.page_size)

    def _candidate(self, photo: dict[str, str]) -> Candidate:
        credit = Credit(author=photo["by"], license="cc0-1.0")
        return Candidate(url=photo["url"], credit=credit)

"""iNaturalist's API: 200 observations a page and 10,000 a query, photos without a license or a size."""

from aiohttp import web
from fakes.api import Api, Json, number

_MAX_PAGE, _WINDOW = 200, 10_000
_LICENSES = ("cc-by-nc", "cc0", "cc-by", "cc-by-sa")


class INaturalist(Api):
    path = "/v1"
    first = "/v1/observations"

    @staticmethod
    def name_of(url: str) -> str:
        return f"{url.split('/')[-2]}.jpg"

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        page, size = int(query.get("page", 1)), min(int(query.get("per_page", 30)), _MAX_PAGE)
        if page * size > _WINDOW:
            said = "Result window is too large, page * per_page must be <= 10000"
            return web.json_response({"error": said, "status": 403}, status=403)
        codes = query["photo_license"].split(",") if "photo_license" in query else list(_LICENSES)
        found = [name for name in self.names if _LICENSES[number(name) % len(_LICENSES)] in codes]
        return web.json_response(
            {
                "total_results": len(found),
                "page": page,
                "per_page": size,
                "results": [self._observation(name) for name in found[(page - 1) * size : page * size]],
            }
        )

    def _observation(self, name: str) -> Json:
        at = number(name)
        code = _LICENSES[at % len(_LICENSES)]
        photo = f"{self.host}/photos/{at}/square.jpg"
        return {
            "id": 1000 + at,
            "uri": f"https://www.inaturalist.org/observations/{1000 + at}",
            "quality_grade": "research",
            "species_guess": "Red Panda",
            "taxon": {"id": 42, "name": "Ailurus fulgens", "rank": "species", "preferred_common_name": "Red Panda"},
            "user": {"id": 7, "login": "ada", "name": None if at % 2 else "Ada Example"},
            "photos": [
                *(
                    [{"id": 1, "license_code": None, "url": f"{self.host}/photos/999/square.jpg"}]
                    if at % 3 == 0
                    else []
                ),
                {
                    "id": at,
                    "license_code": code,
                    "original_dimensions": {"width": 2048, "height": 1536} if at % 4 else None,
                    "url": photo,
                    "attribution": f"(c) Ada Example, some rights reserved ({code.upper()})",
                    "flags": [],
                },
            ],
        }

"""GBIF's API: 300 occurrences a page and 100,000 a query, several media for one, licenses as publishers write them."""

from aiohttp import web
from fakes.api import Api, Json, number

_MAX_PAGE, _WINDOW = 300, 100_000
#: (as the filter has it, as an occurrence has it, as a medium has it)
_LICENSES = (
    ("CC_BY_NC_4_0", "http://creativecommons.org/licenses/by-nc/4.0/legalcode", "© Ada, all rights reserved"),
    ("CC0_1_0", "http://creativecommons.org/publicdomain/zero/1.0/legalcode", None),
    (
        "CC_BY_4_0",
        "http://creativecommons.org/licenses/by/4.0/legalcode",
        "http://creativecommons.org/licenses/by/4.0/",
    ),
)


class Gbif(Api):
    path = "/v1"
    first = "/v1/occurrence/search"

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        offset, limit = int(query.get("offset", 0)), min(int(query.get("limit", 20)), _MAX_PAGE)
        if offset + limit > _WINDOW:
            said = f"Max offset of {_WINDOW:,} exceeded: {offset} + {limit}"
            return web.Response(status=400, text=said)
        wanted = query.getall("license", [name for name, _, _ in _LICENSES])
        found = [name for name in self.names if _LICENSES[number(name) % len(_LICENSES)][0] in wanted]
        return web.json_response(
            {
                "offset": offset,
                "limit": limit,
                "endOfRecords": offset + limit >= len(found),
                "count": len(found),
                "results": [self._occurrence(name) for name in found[offset : offset + limit]],
                "facets": [],
            }
        )

    def _occurrence(self, name: str) -> Json:
        at = number(name)
        _, license_, of_medium = _LICENSES[at % len(_LICENSES)]
        medium = {
            "type": "StillImage",
            "format": "image/jpeg",
            "identifier": f"{self.host}/media/{name}",
            "references": f"https://museum.example/{at}",
            "creator": None if at % 2 else "Ada Example",
            "rightsHolder": "Museum of Examples",
            **({"license": of_medium} if of_medium else {}),
        }
        return {
            "key": 4_000_000_000 + at,
            "basisOfRecord": "HUMAN_OBSERVATION",
            "scientificName": "Ailurus fulgens F.Cuvier, 1825",
            "species": "Ailurus fulgens",
            "license": license_,
            "media": [{"type": "Sound", "identifier": f"{self.host}/media/{at}.wav"}, medium, {"type": "StillImage"}],
        }

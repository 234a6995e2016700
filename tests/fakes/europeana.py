"""Europeana's search: 100 rows, 1,000 results by number, the key in every response, errors also with status 200."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_DEPTH, _MAX_ROWS = 1_000, 100
_RIGHTS = (
    "http://creativecommons.org/licenses/by-sa/4.0/",
    "http://creativecommons.org/publicdomain/mark/1.0/",
    "http://creativecommons.org/publicdomain/zero/1.0/",
)
_SIZES = ("small", "medium", "large", "extra_large")


class Europeana(Api):
    path = "/record/v2"
    first = "/record/v2/search.json"

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("wskey") != KEY:
            return _failed(f"Invalid API key {query.get('wskey')}", query.get("wskey"), status=401)
        start, rows = int(query.get("start", 1)), int(query.get("rows", 12))
        if rows > _MAX_ROWS:
            return _failed("rows must be at most 100", KEY, status=400)
        if start + rows - 1 > _DEPTH:
            return _failed("It is not possible to paginate beyond the first 1000 search results.", KEY, status=200)
        filters = dict(one.split(":") for one in query.getall("qf"))
        found = [
            name
            for name in self.names
            if filters.get("IMAGE_SIZE") in {None, _SIZES[number(name) % 4]}
            and filters.get("IMAGE_ASPECTRATIO") in {None, ("landscape", "portrait")[number(name) // 4 % 2]}
            and "open" in query["reusability"]
        ]
        items = [self._item(name) for name in found[start - 1 : start - 1 + rows]]
        body = {
            "apikey": KEY,
            "success": True,
            "requestNumber": 999,
            "itemsCount": len(items),
            "totalResults": len(found),
            "items": items,
        }
        return web.json_response(body)

    def _item(self, name: str) -> Json:
        at = number(name)
        return {
            "id": f"/1/{at}",
            "type": "IMAGE",
            "title": ["A Cat", "Eine Katze"],
            "dcCreator": ["http://data.europeana.eu/agent/1"] if at % 2 else ["Ada Example"],
            "dataProvider": ["Museum of Examples"],
            "rights": [_RIGHTS[at % len(_RIGHTS)]],
            "guid": f"https://www.europeana.eu/item/1/{at}",
            "edmIsShownAt": [f"https://museum.example/{at}"],
            "edmIsShownBy": [f"{self.host}/media/{name}"],
            "edmPreview": [f"https://api.europeana.eu/thumbnail/{at}"],
        }


def _failed(said: str, key: str | None, *, status: int) -> web.Response:
    return web.json_response({"apikey": key, "success": False, "error": said}, status=status)

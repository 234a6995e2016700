"""Flickr's API: errors with status 200, a total that is no promise, repetitions beyond its depth, numbers as texts."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_DEPTH, _MAX_PAGE = 4_000, 500
_LICENSES = ("4", "5", "9", "11")


class Flickr(Api):
    """`error` is the code of an error that it answers to searches. Photo 0 is the newest, one is uploaded each day."""

    path = "/services/rest"
    first = "/services/rest"
    error = 0
    newest = 1_700_000_000
    spacing = 86_400

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("api_key") != KEY:
            return _failed(100, f"Invalid API Key ({query.get('api_key')} has invalid format)")
        if query.get("format") != "json" or query.get("nojsoncallback") != "1":
            return web.Response(text="jsonFlickrApi({})")
        if query["method"] == "flickr.photos.licenses.getInfo":
            return web.json_response({"licenses": {"license": _licenses()}, "stat": "ok"})
        if self.error:
            return _failed(self.error, "Sorry, the Flickr search API is not currently available.")
        page, size = int(query.get("page", 1)), min(int(query.get("per_page", 100)), _MAX_PAGE)
        wanted = query["license"].split(",")
        first, last = int(query.get("min_upload_date", 0)), int(query.get("max_upload_date", 2**40))
        found = [
            name
            for name in self.names
            if _LICENSES[number(name) % len(_LICENSES)] in wanted
            and first <= self.newest - number(name) * self.spacing <= last
        ]
        pages = max(1, -(-len(found[:_DEPTH]) // size))
        # Beyond the last page there is the last one again.
        at = min(page, pages) - 1
        photos = {
            "page": page,
            "pages": -(-len(found) // size),
            "perpage": size,
            "total": str(len(found)),
            "photo": [self._photo(name) for name in found[at * size : (at + 1) * size]],
        }
        return web.json_response({"photos": photos, "stat": "ok"})

    def _photo(self, name: str) -> Json:
        at = number(name)
        original = {"url_o": f"{self.host}/o/{name}", "width_o": "4000", "height_o": "3000"} if at % 2 else {}
        return {
            "id": str(53_000 + at),
            "owner": "123@N01",
            "secret": "abc",
            "server": "65535",
            "farm": 66,
            "title": "A cat",
            "ispublic": 1,
            "license": _LICENSES[at % len(_LICENSES)],
            "ownername": "Ada Example",
            "url_m": f"{self.host}/m/{name}",
            "width_m": 500,
            "height_m": 375,
            "url_l": f"{self.host}/l/{name}",
            "width_l": "1024",
            "height_l": 768,
            **original,
        }


def _licenses() -> list[Json]:
    deeds = {
        0: "",
        4: "https://creativecommons.org/licenses/by/2.0/",
        7: "https://www.flickr.com/commons/usage/",
        11: "https://creativecommons.org/licenses/by/4.0/",
        12: "",
    }
    return [{"id": id_, "name": "A license", "url": deed} for id_, deed in deeds.items()]


def _failed(code: int, said: str) -> web.Response:
    return web.json_response({"stat": "fail", "code": code, "message": said})

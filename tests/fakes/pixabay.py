"""Pixabay's API: errors in plain text, 3 to 200 a page, 500 a query, a quota with the seconds until it resets."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_DEPTH = 500
_CATEGORIES = ("animals", "nature")


class Pixabay(Api):
    """`remaining` requests are left, and `resets_in` seconds until there are more."""

    path = "/api"
    first = "/api/"
    remaining = 100
    resets_in = 60

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("key") != KEY:
            said = f"[ERROR 400] Invalid or missing API key {query.get('key')}"
            return web.Response(status=400, text=said)
        headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Reset": str(self.resets_in)}
        if self.remaining < 1:
            return web.Response(status=429, text="[ERROR 429] API rate limit exceeded", headers=headers)
        self.remaining -= 1
        headers["X-RateLimit-Remaining"] = str(self.remaining)
        page, size = int(query.get("page", 1)), int(query.get("per_page", 20))
        if not 3 <= size <= 200:
            return web.Response(status=400, text='[ERROR 400] "per_page" is out of valid range.', headers=headers)
        found = [name for name in self.names if _is_in(number(name), query.get("orientation"), query.get("category"))]
        reachable = found[:_DEPTH]
        if page > 1 and (page - 1) * size >= len(reachable):
            return web.Response(status=400, text='[ERROR 400] "page" is out of valid range.', headers=headers)
        hits = [self._hit(name) for name in reachable[(page - 1) * size : page * size]]
        body = {"total": len(found), "totalHits": len(reachable), "hits": hits}
        return web.json_response(body, headers=headers)

    def _hit(self, name: str) -> Json:
        at = number(name)
        return {
            "id": at,
            "pageURL": f"https://pixabay.com/photos/cat-{at}/",
            "type": "photo",
            "tags": "cat, animal",
            "previewURL": f"{self.host}/preview/{name}",
            "webformatURL": f"{self.host}/get/small/{name}",
            "webformatWidth": 640,
            "webformatHeight": 480,
            "largeImageURL": f"{self.host}/get/{name}",
            "imageWidth": 4000,
            "imageHeight": 3000,
            "imageSize": 4731420,
            "user_id": 7,
            "user": "Ada",
        }


def _is_in(at: int, orientation: str | None, category: str | None) -> bool:
    if orientation not in {None, "all"} and orientation != ("vertical" if at % 3 == 0 else "horizontal"):
        return False
    return category is None or category == _CATEGORIES[at // 3 % 2]

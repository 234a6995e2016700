"""Pexels' API: 80 a page, a next page until the last one, headers of the quota on success only."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_MAX_PAGE = 80


class Pexels(Api):
    """`remaining` requests are left; then it answers 429 until that is raised. `resets_at` is a Unix time."""

    path = "/v1"
    first = "/v1/search"
    remaining = 200
    resets_at = 0

    def respond(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != KEY:
            return web.json_response({"status": 401, "code": "Unauthorized"}, status=401)
        if self.remaining < 1:
            return web.json_response({"status": 429, "code": "Rate limit exceeded"}, status=429)
        self.remaining -= 1
        query = request.query
        page, size = int(query.get("page", 1)), min(int(query.get("per_page", 15)), _MAX_PAGE)
        where = f"{self.host}/v1/search/?per_page={size}&query={query['query']}&page="
        body: Json = {
            "page": page,
            "per_page": size,
            "total_results": len(self.names),
            "photos": [self._photo(name) for name in self.names[(page - 1) * size : page * size]],
            **({"next_page": f"{where}{page + 1}"} if page * size < len(self.names) else {}),
            **({"prev_page": f"{where}{page - 1}"} if page > 1 else {}),
        }
        headers = {
            "X-Ratelimit-Limit": "200",
            "X-Ratelimit-Remaining": str(self.remaining),
            "X-Ratelimit-Reset": str(self.resets_at),
        }
        return web.json_response(body, headers=headers if self.resets_at else None)

    def _photo(self, name: str) -> Json:
        at = number(name)
        original = f"{self.host}/photos/{name}"
        return {
            "id": at,
            "width": 4000,
            "height": 3000,
            "url": f"https://www.pexels.com/photo/a-cat-{at}/",
            "photographer": "Ada Example",
            "photographer_url": "https://www.pexels.com/@ada",
            "avg_color": "#978E82",
            "src": {"original": original, "large": f"{original}?auto=compress&cs=tinysrgb&h=650&w=940"},
            "liked": False,
            "alt": "A cat" if at % 2 else "",
        }

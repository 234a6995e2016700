"""Unsplash's API: 30 a page, 403 with a plain text beyond the quota, and what was used is reported to it."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_MAX_PAGE = 30


class Unsplash(Api):
    """`remaining` requests are left. `used` are the ids of the photos that were reported."""

    first = "/search/photos"
    remaining = 5000

    def __init__(self, *arguments: object, **values: object) -> None:
        super().__init__(*arguments, **values)  # type: ignore[arg-type]  # as they are
        self.used: list[str] = []

    def respond(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Client-ID {KEY}":
            return web.json_response({"errors": ["OAuth error: The access token is invalid"]}, status=401)
        if self.remaining < 1:
            return web.Response(status=403, text="Rate Limit Exceeded")
        self.remaining -= 1
        headers = {"X-Ratelimit-Limit": "5000", "X-Ratelimit-Remaining": str(self.remaining)}
        if request.path.startswith("/photos/"):
            self.used.append(request.path.split("/")[2])
            return web.json_response({"url": f"{self.host}/photo-{self.used[-1]}"}, headers=headers)
        page = int(request.query.get("page", 1))
        size = min(int(request.query.get("per_page", 10)), _MAX_PAGE)
        found = self.names[(page - 1) * size : page * size]
        body = {
            "total": len(self.names),
            "total_pages": -(-len(self.names) // size),
            "results": [self._photo(name) for name in found],
        }
        return web.json_response(body, headers=headers)

    def _photo(self, name: str) -> Json:
        at = number(name)
        image = f"{self.host}/images/{name}?ixid=M3w{at}"
        return {
            "id": f"id{at}",
            "width": 4000,
            "height": 3000,
            "description": None,
            "alt_description": "a cat",
            "user": {
                "id": "u",
                "username": "ada",
                "name": "Ada Example",
                "links": {"html": "https://unsplash.com/@ada"},
            },
            "urls": {
                "raw": image,
                "full": f"{image}&q=85&fm=jpg",
                "regular": f"{image}&q=80&fm=jpg&w=1080&fit=max",
                "small": f"{image}&q=80&fm=jpg&w=400&fit=max",
                "thumb": f"{image}&q=80&fm=jpg&w=200&fit=max",
            },
            "links": {
                "html": f"https://unsplash.com/photos/id{at}",
                "download": f"https://unsplash.com/photos/id{at}/download",
                "download_location": f"{self.host}/photos/id{at}/download?ixid=M3w{at}",
            },
        }

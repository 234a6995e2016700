"""NASA's API: 100 pages of 100, sizes as strings or missing, links to subtitles among the files, images of others."""

from aiohttp import web
from fakes.api import Api, Json, number

_PAGES, _MAX_PAGE = 100, 100


class Nasa(Api):
    first = "/search"

    @staticmethod
    def name_of(url: str) -> str:
        return f"{url.rpartition('/')[2].partition('~')[0]}.jpg"

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        page, size = int(query.get("page", 1)), int(query.get("page_size", 100))
        if size > _MAX_PAGE:
            return web.json_response({"reason": "Page size must be at most 100."}, status=400)
        if page > _PAGES:
            said = "Maximum number of search results have been displayed. Please refine your search."
            return web.json_response({"reason": said}, status=400)
        links = []
        if page > 1:
            links.append({"rel": "prev", "prompt": "Previous", "href": f"{self.host}/search?page={page - 1}"})
        if page * size < len(self.names):
            links.append({"rel": "next", "prompt": "Next", "href": f"{self.host}/search?page={page + 1}"})
        collection = {
            "version": "1.1",
            "href": f"{self.host}/search?q=cat",
            "items": [self._item(name) for name in self.names[(page - 1) * size : page * size]],
            "metadata": {"total_hits": len(self.names)},
            **({"links": links} if links else {}),
        }
        return web.json_response({"collection": collection})

    def _item(self, name: str) -> Json:
        at = number(name)

        def link(size: str, rel: str, width: object, height: object) -> Json:
            return {"href": f"{self.host}/image/{at}/{at}~{size}.jpg", "rel": rel, "width": width, "height": height}

        return {
            "href": f"{self.host}/image/{at}/collection.json",
            "data": [
                {
                    "nasa_id": f"PIA{at}",
                    "title": "A Cat Nebula",
                    "media_type": "image",
                    "center": "JPL",
                    "date_created": "2020-01-01T00:00:00Z",
                    "description": "Image copyright Ada Example." if at % 4 == 3 else "As seen by a telescope.",
                    **({"photographer": "Ada Example"} if at % 2 else {}),
                }
            ],
            "links": [
                {"href": f"{self.host}/image/{at}/{at}.srt", "rel": "captions"},
                link("orig", "canonical", "6000", "4000"),
                link("large", "alternate", 1920, 1280),
                link("medium", "alternate", 1280, 853),
                link("small", "alternate", 640, 427),
                link("thumb", "preview", None, None),
            ],
        }

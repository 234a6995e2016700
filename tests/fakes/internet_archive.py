"""The Internet Archive: a search window of 10,000, creators as texts or arrays, numbers as texts, closed items."""

from aiohttp import web
from fakes.api import Api, Json, number

_WINDOW = 10_000
_DEEDS = ("http://creativecommons.org/licenses/by-sa/3.0/", None, "https://creativecommons.org/publicdomain/zero/1.0/")


class InternetArchive(Api):
    """Besides its names, `closed` are identifiers of items that the search finds at the end."""

    first = "/advancedsearch.php"
    closed: tuple[str, ...] = ()

    def respond(self, request: web.Request) -> web.Response:
        if request.path.startswith("/metadata/"):
            return web.json_response(self._details(request.path.rpartition("/")[2]))
        query = request.query
        rows, page = int(query.get("rows", 50)), int(query.get("page", 1))
        if rows * page > _WINDOW:
            return web.json_response({"error": "[RANGE_OUT_OF_BOUNDS] paging is limited to 10000 results"}, status=400)
        items = [f"cat-{number(name)}" for name in self.names] + list(self.closed)
        if "licenseurl:" in query["q"]:
            items = [one for one in items if self._deed(one)]
        start = (page - 1) * rows
        docs = [self._doc(one) for one in items[start : start + rows]]
        return web.json_response(
            {
                "responseHeader": {"status": 0, "QTime": 7, "params": {"query": query["q"]}},
                "response": {"numFound": len(items), "start": start, "docs": docs},
            }
        )

    def _deed(self, identifier: str) -> str | None:
        at = identifier.rpartition("-")[2]
        return _DEEDS[int(at) % len(_DEEDS)] if at.isdecimal() else _DEEDS[0]

    def _doc(self, identifier: str) -> Json:
        deed = self._deed(identifier)
        return {
            "identifier": identifier,
            "title": "A Cat",
            "creator": ["Ada Example", "Bob Example"] if deed else "Ada Example",
            **({"licenseurl": deed} if deed else {}),
        }

    def _details(self, identifier: str) -> Json:
        if identifier in self.closed:
            return {} if identifier.startswith("gone") else {"is_dark": True, "metadata": {"identifier": identifier}}
        at = identifier.rpartition("-")[2]
        usual = {"source": "original", "format": "JPEG", "width": "4000", "height": "3000", "size": "5000000"}
        derived = {"source": "derivative", "original": f"{at}.jpg"}
        return {
            "server": "ia800000.us.archive.org",
            "dir": f"/1/items/{identifier}",
            "files": [
                {"name": f"{identifier}_meta.xml", "source": "original", "format": "Metadata"},
                {"name": "__ia_thumb.jpg", "source": "original", "format": "Item Tile"},
                {"name": f"{at}_thumb.jpg", **derived, "format": "JPEG Thumb", "width": "180", "height": "135"},
                {"name": f"{at}.jpg", **usual},
                {"name": f"back of {at}.jpg", **usual},
            ],
            "files_count": 5,
            "metadata": {"identifier": identifier, "mediatype": "image"},
        }

"""The Met's API: all ids at once, null for none, works without an image, works that are gone."""

from aiohttp import web
from fakes.api import Api, number


class Met(Api):
    """Besides its names, `restricted` and `gone` are ids of works that the search finds at the end."""

    path = "/public/collection/v1"
    first = "/public/collection/v1/search"
    restricted: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def respond(self, request: web.Request) -> web.Response:
        if request.path == self.first:
            ids = [1000 + number(name) for name in self.names] + [*self.restricted, *self.gone]
            return web.json_response({"total": len(ids), "objectIDs": ids or None})
        at = int(request.path.rpartition("/")[2])
        if at in self.gone:
            return web.json_response({"message": "ObjectID not found"}, status=404)
        free = at not in self.restricted
        return web.json_response(
            {
                "objectID": at,
                "isHighlight": False,
                "isPublicDomain": free,
                "primaryImage": f"{self.host}/CRDImages/{at - 1000}.jpg" if free else "",
                "primaryImageSmall": f"{self.host}/CRDImages/web-large/{at - 1000}.jpg" if free else "",
                "additionalImages": [],
                "title": "A Cat",
                "artistDisplayName": "" if at % 2 else "Ada Example",
                "objectURL": f"https://www.metmuseum.org/art/collection/search/{at}",
                "tags": [{"term": "Cats", "AAT_URL": "http://vocab.getty.edu/page/aat/300265960"}] if at % 3 else None,
            }
        )

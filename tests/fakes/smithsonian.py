"""The Smithsonian's API: images under several terms in one work, errors of api.data.gov, its headers of the quota."""

from aiohttp import web
from fakes.api import KEY, Api, Json, number

_MAX_ROWS = 1000


class Smithsonian(Api):
    """`remaining` requests are left."""

    path = "/openaccess/api/v1.0"
    first = "/openaccess/api/v1.0/search"
    remaining = 1000

    def respond(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("api_key") != KEY:
            error = {"code": "API_KEY_INVALID", "message": f"An invalid api_key was supplied: {query.get('api_key')}"}
            return web.json_response({"error": error}, status=403)
        if self.remaining < 1:
            error = {"code": "OVER_RATE_LIMIT", "message": "You have exceeded your rate limit."}
            return web.json_response({"error": error}, status=429)
        self.remaining -= 1
        start, rows = int(query.get("start", 0)), min(int(query.get("rows", 10)), _MAX_ROWS)
        found = [self._row(name) for name in self.names[start : start + rows]]
        response = {"rows": found, "rowCount": len(self.names), "message": "content found"}
        headers = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": str(self.remaining)}
        return web.json_response({"status": 200, "responseCode": 1, "response": response}, headers=headers)

    def _row(self, name: str) -> Json:
        at = number(name)

        def medium(kind: str, access: str, url: str) -> Json:
            return {"type": kind, "usage": {"access": access}, "content": url, "idsId": f"NMNH-{at}"}

        image = f"{self.host}/ids/{name}"
        return {
            "id": f"edanmdm-nmnh_{at}",
            "title": "A Cat",
            "unitCode": "NMNH",
            "content": {
                "descriptiveNonRepeating": {
                    "record_link": f"https://collections.si.edu/{at}",
                    "data_source": "National Museum of Examples",
                    "online_media": {
                        "mediaCount": 3,
                        "media": [
                            medium("Images", "Usage conditions apply", f"{image}?restricted"),
                            medium("3d_voyager", "CC0", f"{self.host}/3d/{at}"),
                            medium("Images", "CC0", image),
                        ],
                    },
                },
                "freetext": {"name": [{"label": "Artist", "content": "Ada Example"}]} if at % 2 else {},
            },
        }

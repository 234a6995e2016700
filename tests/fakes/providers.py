"""Wikimedia Commons and Openverse on loopback, faithful in what a client trips over.

    with serving(Catalog.of("red panda", 300)) as providers:
        providers.base                  # PIXCRAWLER_COMMONS_URL is commons_url, PIXCRAWLER_OPENVERSE_URL openverse_url
        providers.requests["commons"]      # query parameters of its requests, as dicts

Commons: pages that are not in order, batches that come in parts (`iicontinue`), errors in responses with status 200, a
search window, ranges of widths, 403 for a User-Agent that names no client, thumbnails of the widths that Wikimedia
keeps. Openverse: 20 a page and 240 a query, 401 beyond, totals clamped to that, sizes that are null, rate headers,
tokens for a client's id and secret. Some files are dead.

As a process of its own it prints the settings that lead to it: `python -m fakes.providers "red panda" --images 300`.
"""

import argparse
import asyncio
import json
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from fakes.hosts import jpeg

#: A key that keyed providers accept, and here a token and the secret of a client.
KEY = "hunter2"

Json = dict[str, Any]
#: Returns a response in the place of a provider's, to its n-th request from 0; None leaves it to the provider.
Trouble = Callable[[int, web.Request], web.Response | None]

_WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
_WINDOW = 10_000
_DEPTH, _PAGE_SIZE = 240, 20
_BATCH = 20
#: (license as Commons' `License` has it, short name, URL of its deed, Openverse's name, its version)
_LICENSES = (
    ("cc-by-sa-4.0", "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0", "by-sa", "4.0"),
    ("cc0", "CC0", "http://creativecommons.org/publicdomain/zero/1.0/deed.en", "cc0", "1.0"),
    ("pd", "Public domain", None, "pdm", "1.0"),
    ("cc-by-2.0", "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0", "by", "2.0"),
)


@dataclass(frozen=True)
class Work:
    """An image of the catalog.

    Attributes:
        number: identifies the work.
        keyword: what it is found under.
        file: number of its file, which several works may share.
        dead: whether its file is gone.
    """

    number: int
    keyword: str
    file: int
    dead: bool = False

    @property
    def license(self) -> tuple[str, str, str | None, str, str]:
        return _LICENSES[self.number % len(_LICENSES)]

    @property
    def width(self) -> int:
        """Pixels of the original at Commons."""
        return 5514 - self.number % 1000

    @property
    def size(self) -> str:
        """As Openverse has it."""
        return ("large", "medium", "small")[self.number // 4 % 3]

    @property
    def ratio(self) -> str:
        """As Openverse has it."""
        return ("wide", "tall", "square")[self.number // 12 % 3]

    @property
    def name(self) -> str:
        return f"{self.keyword} {self.number}"


@dataclass(frozen=True)
class Catalog:
    """What each provider has for a keyword, in the order in which it finds it."""

    commons: Mapping[str, list[Work]]
    openverse: Mapping[str, list[Work]]

    @classmethod
    def of(cls, *keywords: str, count: int, repeated: float = 0, dead: float = 0) -> "Catalog":
        """`count` works per keyword at each provider; a share repeats the file of an earlier one, a share is dead."""
        chance = random.Random(count)
        numbers = iter(range(10**9))

        def works(keyword: str) -> list[Work]:
            made: list[Work] = []
            for _ in range(count):
                number = next(numbers)
                again = made and chance.random() < repeated
                file = chance.choice(made).file if again else number
                made.append(Work(number, keyword, file, dead=chance.random() < dead))
            return made

        return cls({k: works(k) for k in keywords}, {k: works(k) for k in keywords})


@dataclass
class Providers:
    """The servers, the requests that they received, and what goes wrong with them."""

    catalog: Catalog
    trouble: dict[str, Trouble] = field(default_factory=dict)
    base: str = ""
    requests: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    tokens: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)

    @property
    def commons_url(self) -> str:
        return f"{self.base}/w/api.php"

    @property
    def openverse_url(self) -> str:
        return f"{self.base}/v1/"

    @property
    def settings(self) -> dict[str, str]:
        """The environment in which a worker uses these instead of the real ones."""
        return {"PIXCRAWLER_COMMONS_URL": self.commons_url, "PIXCRAWLER_OPENVERSE_URL": self.openverse_url}

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/w/api.php", self._behind("commons", self._commons)),
                web.get("/v1/images/", self._behind("openverse", self._openverse)),
                web.post("/v1/auth_tokens/token/", self._new_token),
                web.get("/wikipedia/commons/thumb/{file}/{thumb}", self._file),
                web.get("/wikipedia/commons/{file}", self._file),
            ]
        )
        return app

    def _behind(
        self, name: str, respond: Callable[[web.Request], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            number = len(self.requests[name])
            self.requests[name].append(dict(request.query))
            trouble = self.trouble.get(name)
            trouble_response = trouble(number, request) if trouble else None
            return trouble_response or respond(request)

        return handle

    async def _file(self, request: web.Request) -> web.Response:
        self.requests["files"].append(dict(request.match_info))
        number, _, state = request.match_info["file"].removesuffix(".jpg").partition("-")
        if state == "dead":
            return web.Response(status=404, text="<h1>File not found</h1>", content_type="text/html")
        if _is_anonymous(request):
            return web.Response(status=403, text="Please set a user-agent and respect our robot policy")
        return web.Response(body=jpeg(f"file {number}"), content_type="image/jpeg")

    # Commons

    def _commons(self, request: web.Request) -> web.Response:
        query = request.query
        if _is_anonymous(request):
            return web.Response(status=403, text="Please set a user-agent and respect our robot policy")
        if query.get("list") == "search":
            hits = len(self._commons_found(query["srsearch"]))
            return web.json_response(
                {"batchcomplete": True, "query": {"searchinfo": {"totalhits": hits}, "search": []}}
            )
        if query.get("format") != "json" or query.get("formatversion") != "2" or query.get("generator") != "search":
            return _error("badvalue", "Unrecognized value for parameter.")
        offset, limit = int(query.get("gsroffset", 0)), int(query.get("gsrlimit", 10))
        if not 1 <= limit <= 500 or offset + limit > _WINDOW:
            return _error("badvalue", "The value is out of range.")
        found = self._commons_found(query["gsrsearch"])
        batch = found[offset : offset + limit]
        data: Json = {"query": {"pages": self._commons_pages(batch, offset, request)}} if batch else {}
        part = int(query.get("iicontinue", "0|0").split("|")[1])
        if (part + 1) * _BATCH < len(batch):
            data["continue"] = {"iicontinue": f"x|{part + 1}", "gsroffset": offset, "continue": "gsroffset||"}
        else:
            data["batchcomplete"] = True
            if offset + limit < len(found):
                data["continue"] = {"gsroffset": offset + limit, "continue": "gsroffset||"}
        return web.json_response(data)

    def _commons_found(self, search: str) -> list[Work]:
        keyword, _, widths = search.removeprefix("filetype:bitmap ").partition(" filew:")
        first, last = map(int, widths.split(",")) if widths else (0, 10**9)
        return [work for work in self.catalog.commons.get(keyword, []) if first <= work.width <= last]

    def _commons_pages(self, batch: list[Work], offset: int, request: web.Request) -> list[Json]:
        part = int(request.query.get("iicontinue", "0|0").split("|")[1])
        described = range(part * _BATCH, (part + 1) * _BATCH)
        width = int(request.query.get("iiurlwidth", 0))
        pages = [
            {
                "pageid": 1000 + work.number,
                "ns": 6,
                "title": f"File:{work.name}.jpg",
                "index": offset + position + 1,
                "imagerepository": "local",
                **({"imageinfo": [self._imageinfo(work, width)]} if position in described else {}),
            }
            for position, work in enumerate(batch)
        ]
        random.Random(offset).shuffle(pages)
        return pages

    def _imageinfo(self, work: Work, width: int) -> Json:
        license_, short, deed, _, _ = work.license
        file = f"{work.file}{'-dead' if work.dead else ''}.jpg"
        step = next((step for step in _WIDTHS if step >= width), _WIDTHS[-1])
        url = f"{self.base}/wikipedia/commons/{file}"
        return {
            "size": 11_863_148,
            "width": work.width,
            "height": work.width * 3102 // 5514,
            "thumburl": f"{self.base}/wikipedia/commons/thumb/{file}/{step}px-{work.number}.jpg",
            "thumbwidth": step,
            "thumbheight": step * 3102 // 5514,
            "url": url,
            "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{work.number}.jpg",
            "mime": "image/jpeg",
            "mediatype": "BITMAP",
            "extmetadata": {
                "LicenseShortName": {"value": short, "source": "commons-desc-page", "hidden": ""},
                "License": {"value": license_, "source": "commons-templates", "hidden": ""},
                **({"LicenseUrl": {"value": deed, "source": "commons-desc-page", "hidden": ""}} if deed else {}),
                "Artist": {"value": f'<a href="//commons.wikimedia.org/wiki/User:A{work.number}">Ada &amp; co.</a>'},
                "ObjectName": {"value": work.name},
            },
        }

    # Openverse

    def _openverse(self, request: web.Request) -> web.Response:
        query = request.query
        authorization = request.headers.get("Authorization")
        self.authorized.append(authorization)
        if authorization is not None and authorization.removeprefix("Bearer ") not in {*self.tokens, KEY}:
            return _unauthorized("Authentication credentials were not provided.")
        page, size = int(query.get("page", 1)), int(query.get("page_size", _PAGE_SIZE))
        if size > _PAGE_SIZE:
            return _unauthorized(f"page_size may not exceed {_PAGE_SIZE} for anonymous requests")
        if page * size > _DEPTH:
            return _unauthorized(f"pagination depth may not exceed {_DEPTH} for anonymous requests")
        licenses = set(query["license"].split(",")) if "license" in query else None
        if licenses and (unknown := licenses - {"by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa", "cc0", "pdm"}):
            detail = f"Invalid input given for fields. 'license' -> License '{unknown.pop()}' does not exist."
            return web.json_response({"error": "InputError", "detail": detail, "fields": ["license"]}, status=400)
        found = [
            work
            for work in self.catalog.openverse.get(query["q"], [])
            if (not licenses or work.license[3] in licenses)
            and query.get("size") in {None, work.size}
            and query.get("aspect_ratio") in {None, work.ratio}
        ][:_DEPTH]
        pages = -(-len(found) // size)
        if page > max(pages, 1):
            return web.json_response({"detail": "Invalid page."}, status=404)
        return web.json_response(
            {
                "result_count": len(found),
                "page_count": pages,
                "page_size": size,
                "page": page,
                "results": [self._result(work) for work in found[(page - 1) * size : page * size]],
            },
            headers={"X-RateLimit-Limit-anon_burst": "20/min", "X-RateLimit-Available-anon_burst": "19"},
        )

    async def _new_token(self, request: web.Request) -> web.Response:
        """Return a token for the client `ada` with the secret `hunter2`, and forget that of before."""
        form = await request.post()
        self.requests["tokens"].append({name: str(value) for name, value in form.items()})
        if (form.get("client_id"), form.get("client_secret")) != ("ada", KEY):
            said = f"Invalid client: {self.requests['tokens'][-1]}"
            return web.json_response({"error": "invalid_client", "error_description": said, "detail": said}, status=401)
        self.tokens = [f"token-{len(self.requests['tokens'])}"]
        granted = {"access_token": self.tokens[0], "token_type": "Bearer", "expires_in": 36000, "scope": "read write"}
        return web.json_response(granted)

    def _result(self, work: Work) -> Json:
        _, short, deed, license_, version = work.license
        known = work.number % 5
        return {
            "id": f"{work.number:032x}",
            "title": work.name,
            "indexed_on": "2022-08-27T17:39:48Z",
            "foreign_landing_url": f"https://images.example/{work.number}",
            "url": f"{self.base}/wikipedia/commons/{work.file}{'-dead' if work.dead else ''}.jpg",
            "creator": "Ada & co.",
            "license": license_,
            "license_version": version,
            "license_url": deed,
            "category": None,
            "filesize": None,
            "attribution": f'"{work.name}" by Ada & co. is licensed under {short}.',
            "mature": False,
            "height": 64 if known else None,
            "width": 96 if known else None,
            "unstable__sensitivity": [],
        }


def _is_anonymous(request: web.Request) -> bool:
    agent = request.headers.get("User-Agent", "")
    return not agent or agent.lower().startswith(("python", "aiohttp", "mozilla"))


def _error(code: str, info: str) -> web.Response:
    body = {"error": {"code": code, "info": info, "docref": "See the API's documentation."}, "servedby": "mw1"}
    return web.json_response(body, headers={"MediaWiki-API-Error": code})


def _unauthorized(detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=401)


def lagging(seconds: int = 5) -> web.Response:
    """Return Commons' response while its replicas lag: status 200."""
    body = {"error": {"code": "maxlag", "info": f"Waiting for a database server: {seconds} seconds lagged."}}
    return web.json_response(body, headers={"Retry-After": str(seconds), "MediaWiki-API-Error": "maxlag"})


def throttled(seconds: int = 1) -> web.Response:
    """Return the response of either to too many requests."""
    return web.Response(
        status=429, text="<h1>Too Many Requests</h1>", content_type="text/html", headers={"Retry-After": str(seconds)}
    )


def down(_number: int = 0, _request: web.Request | None = None) -> web.Response:
    """Return the response of a provider that is down."""
    return web.Response(status=503, text="<h1>Service Unavailable</h1>", content_type="text/html")


@contextmanager
def serving(catalog: Catalog, **trouble: Trouble) -> Iterator[Providers]:
    """Serve both on a free port of loopback, in a thread, while the context is open."""
    providers = Providers(catalog, trouble)
    with _running(providers.app()) as providers.base:
        yield providers


@contextmanager
def application(handle: Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]) -> Iterator[str]:
    """Serve what a function returns for each request, and yield the base URL."""

    async def respond(request: web.Request) -> web.StreamResponse:
        found = handle(request)
        return found if isinstance(found, web.StreamResponse) else await found

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    with _running(app) as base:
        yield base


@contextmanager
def _running(app: web.Application) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return _base(runner)

    base = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield base
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(_cancel_others())
        loop.close()


async def _cancel_others() -> None:
    """End responses that nothing waits for any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _base(runner: web.AppRunner) -> str:
    host, port, *_ = runner.addresses[0]
    return f"http://{host}:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keywords", nargs="+")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeated", type=float, default=0.3)
    parser.add_argument("--dead", type=float, default=0.2)
    options = parser.parse_args()
    catalog = Catalog.of(*options.keywords, count=options.images, repeated=options.repeated, dead=options.dead)
    with serving(catalog) as providers:
        sys.stdout.write(json.dumps(providers.settings) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()

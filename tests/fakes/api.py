"""What the fakes of single providers share: a catalog of names, the requests that came, and trouble on request."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from aiohttp import web
from fakes import providers
from fakes.hosts import jpeg
from fakes.providers import Work

Json = dict[str, Any]
#: The key that the fakes of keyed providers accept.
KEY = providers.KEY
#: Parameters that have the words of a search.
_WORDS = ("q", "query", "text")


class Api:
    """A provider's API on loopback.

        with Pexels(["0.jpg", "1.jpg"]).serving() as api:
            api.url         # PIXCRAWLER_PEXELS_URL
            api.requests    # what came, in order

    Attributes:
        path: of the provider's base URL.
        first: path that a search requests first.
        names: of its images, in the order in which it finds them, whatever is searched.
        catalog: in place of that, the works that it finds for each keyword; their files are served, too.
        trouble: returns a response in the place of the provider's to its n-th request from 0, or None.
        requests: all that came.
        answers: bodies of the responses, by path and query.
    """

    path: ClassVar[str] = ""
    first: ClassVar[str]

    def __init__(
        self,
        names: Sequence[str] = (),
        *,
        catalog: Mapping[str, Sequence[Work]] | None = None,
        trouble: Callable[[int], web.Response | None] | None = None,
    ) -> None:
        self.names, self.catalog, self.trouble = list(names), catalog, trouble
        self._files = {f"{work.number}.jpg": work for works in (catalog or {}).values() for work in works}
        self.requests: list[web.Request] = []
        self.answers: dict[str, str] = {}
        self.host = ""

    @property
    def url(self) -> str:
        return self.host + self.path

    @property
    def queries(self) -> list[dict[str, str]]:
        """The parameters of the requests, the first of each name."""
        return [dict(reversed(list(request.query.items()))) for request in self.requests]

    @staticmethod
    def name_of(url: str) -> str:
        """Return the name of the image with this URL."""
        return url.partition("?")[0].rpartition("/")[2]

    def respond(self, request: web.Request) -> web.Response:
        raise NotImplementedError

    @contextmanager
    def serving(self) -> Iterator[Self]:
        with providers.application(self._handle) as self.host:
            yield self

    def _handle(self, request: web.Request) -> web.Response:
        if self.catalog is not None:
            if request.path.endswith((".jpg", "/robots.txt")):
                return self._file(self._files.get(self.name_of(str(request.url))))
            words = next((request.query[name] for name in _WORDS if name in request.query), "")
            self.names = [f"{work.number}.jpg" for work in self.catalog.get(words, ())]
        self.requests.append(request)
        found = self.trouble(len(self.requests) - 1) if self.trouble else None
        response = found or self.respond(request)
        self.answers[request.raw_path] = response.text or ""
        return response

    @staticmethod
    def _file(work: Work | None) -> web.Response:
        if work is None or work.dead:
            return web.Response(status=404, text="<h1>Not Found</h1>", content_type="text/html")
        return web.Response(body=jpeg(f"file {work.file}"), content_type="image/jpeg")


def number(name: str) -> int:
    """Return the number in a name such as `7.jpg`."""
    return int(name.partition(".")[0])

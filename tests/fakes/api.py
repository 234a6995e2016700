"""What the fakes of single providers share: a catalog of names, the requests that came, and trouble on request."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from aiohttp import web
from fakes import providers

Json = dict[str, Any]
#: The key that the fakes of keyed providers accept.
KEY = providers.KEY


class Api:
    """A provider's API on loopback.

        with Pexels(["0.jpg", "1.jpg"]).serving() as api:
            api.url         # PIXCRAWLER_PEXELS_URL
            api.requests    # what came, in order

    Attributes:
        path: of the provider's base URL.
        first: path that a search requests first.
        names: of its images, in the order in which it finds them.
        trouble: returns a response in the place of the provider's to its n-th request from 0, or None.
        requests: all that came.
        answers: bodies of the responses, by path and query.
    """

    path: ClassVar[str] = ""
    first: ClassVar[str]

    def __init__(
        self, names: Sequence[str] = (), *, trouble: Callable[[int], web.Response | None] | None = None
    ) -> None:
        self.names, self.trouble = list(names), trouble
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
        self.requests.append(request)
        found = self.trouble(len(self.requests) - 1) if self.trouble else None
        response = found or self.respond(request)
        self.answers[request.raw_path] = response.text or ""
        return response


def number(name: str) -> int:
    """Return the number in a name such as `7.jpg`."""
    return int(name.partition(".")[0])

"""A source of another package: plain httpx, tested without the worker, and unchanged under its guard."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from fakes import providers
from source_client import AGENT, LOOPBACK, POLICY, search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, SourceConfig
from pixcrawler_worker.web.policy import Policy

PACKAGE = Path(__file__).parent / "example_package"
PHOTOS = {"photos": [{"url": "https://aquarium.example/1.jpg", "by": "Ada"}], "total": 21}
Handler = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as pip leaves it: its module, and the entry point in its metadata."""
    metadata = tmp_path / "aquarium_source-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: aquarium-source\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pixcrawler.sources]\naquarium = aquarium:Aquarium\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(PACKAGE))


def aquarium(base_url: str | None = None) -> protocol.Source:
    return protocol.load("aquarium", SourceConfig(base_url=base_url, api_key="hunter2"))


def search(handle: Handler, *, policy: Policy = POLICY, **values: Any) -> Page:
    """Return a page of the source, with a server on loopback in its provider's place."""
    with providers.application(handle) as base:
        return search_with(aquarium(base), name="aquarium", policy=policy, page_size=20, **values)


def test_it_is_tested_without_the_worker() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.params["offset"] == "40"
        return httpx.Response(200, json=PHOTOS)

    query = Query(text="clownfish", label="fish", page=2, page_size=20)
    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    page = asyncio.run(aquarium().search(query, client))
    assert [candidate.url for candidate in page.candidates] == ["https://aquarium.example/1.jpg"]


def test_it_works_unchanged_under_the_guard() -> None:
    seen: list[web.Request] = []

    def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response(PHOTOS)

    page = search(handle)
    assert (page.candidates[0].credit.author, page.more) == ("Ada", True)
    (request,) = seen
    assert request.headers["User-Agent"] == AGENT
    assert request.headers["Authorization"] == "Bearer hunter2"
    assert request.headers["Accept-Encoding"] == "identity"


def test_it_says_what_it_needs() -> None:
    assert protocol.load("aquarium", SourceConfig()).missing() == "set PIXCRAWLER_AQUARIUM_API_KEY"


def test_a_private_address_is_rejected() -> None:
    with pytest.raises(PermanentError, match="aquarium could not be requested: forbidden_address"):
        search(lambda _: web.json_response(PHOTOS), policy=Policy(user_agent=AGENT))


def test_a_redirect_to_a_private_address_is_rejected() -> None:
    def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})

    with pytest.raises(PermanentError, match="forbidden_address"):
        search(away)


def test_redirects_are_followed_and_its_key_does_not_follow_to_another_origin() -> None:
    seen: list[tuple[str, str | None]] = []
    with providers.application(lambda request: _noted(seen, request)) as elsewhere:

        def move(request: web.Request) -> web.Response:
            if request.path == "/photos":
                return web.Response(status=307, headers={"Location": "/v2/photos"})
            _noted(seen, request)
            return web.Response(status=307, headers={"Location": f"{elsewhere}/photos"})

        assert len(search(move).candidates) == 1
    assert seen == [("/v2/photos", "Bearer hunter2"), ("/photos", None)]


def _noted(seen: list[tuple[str, str | None]], request: web.Request) -> web.Response:
    seen.append((request.path, request.headers.get("Authorization")))
    return web.json_response(PHOTOS)


def test_a_response_over_the_cap_is_cut_off() -> None:
    small = Policy(user_agent=AGENT, allowed_networks=LOOPBACK, max_bytes=1000)
    with pytest.raises(PermanentError, match="too_many_bytes"):
        search(lambda _: web.Response(text=json.dumps(PHOTOS) + " " * 2000), policy=small)


def test_a_provider_that_is_too_slow_is_a_transient_error_at_the_deadline() -> None:
    short = Policy(user_agent=AGENT, allowed_networks=LOOPBACK, deadline=timedelta(seconds=0.2))

    async def sleep(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.json_response(PHOTOS)

    with pytest.raises(TransientError, match="aquarium could not be reached: timeout"):
        search(sleep, policy=short)


def test_a_request_is_repeated_at_once_after_a_hiccup() -> None:
    tries: list[int] = []

    def stumble(_: web.Request) -> web.Response:
        tries.append(1)
        return web.json_response(PHOTOS, status=502 if len(tries) < 3 else 200)

    assert len(search(stumble).candidates) == 1
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [(429, None, 60), (429, "7", 7), (503, "30", 30), (429, "9" * 40, 365 * 86_400)],
)
def test_a_retry_after_is_passed_on(status: int, header: str | None, seconds: int) -> None:
    headers = {} if header is None else {"Retry-After": header}
    with pytest.raises(TransientError) as caught:
        search(lambda _: web.Response(status=status, headers=headers))
    assert caught.value.retry_after == timedelta(seconds=seconds)


def test_a_rejection_quotes_the_provider_and_hides_the_key() -> None:
    with pytest.raises(PermanentError, match="aquarium answered 401: 'this key has expired'") as caught:
        search(lambda _: web.Response(status=401, text="this key\nhas expired"))
    assert "hunter2" not in str(caught.value)


def test_what_is_not_json_names_the_setting() -> None:
    with pytest.raises(PermanentError, match="PIXCRAWLER_AQUARIUM_URL"):
        search(lambda _: web.Response(text="<html>"))


def test_only_one_file_of_the_package_imports_httpx() -> None:
    package = Path(protocol.__file__).parents[1]
    statement = re.compile(r"^\s*(import|from) httpx\b", re.MULTILINE)
    importing = [path.name for path in package.rglob("*.py") if statement.search(path.read_text())]
    assert importing == ["http.py"]


def test_a_process_that_only_sweeps_does_not_need_the_client() -> None:
    """Importing the client's module is all that it costs: nothing connects before it is used."""
    code = "from pixcrawler_worker.web import http; from pixcrawler_worker.web.downloader import *; print('ok')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "ok\n"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("aquarium", None)

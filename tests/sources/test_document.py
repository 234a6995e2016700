"""The example and the table of docs/sources.md."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import hosts
from source_client import search_with

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Source, SourceConfig

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


def search(response: object) -> Page:
    """Return the page that the document's source makes of a response."""
    block, _ = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    defined: dict[str, Any] = {}
    exec(block, defined)
    body = json.dumps(response).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    with hosts.serving(responses={"/search": head + body}) as server:
        source: Source = defined["Museum"](SourceConfig(base_url=f"{server.base}/search"))
        assert source.missing() is None
        return search_with(source, name="museum", page_size=2)


def test_it_works_as_it_is_printed() -> None:
    page = search({"items": [{"image": "https://museum.example/1.jpg", "painter": "Ada"}, {"odd": 1}]})
    (candidate,) = page.candidates
    assert (candidate.url, candidate.credit.author, page.more) == ("https://museum.example/1.jpg", "Ada", True)
    with pytest.raises(PermanentError, match="museum: the response has no list of items"):
        search({})


def test_its_test_passes_as_it_is_printed() -> None:
    source, test = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    defined: dict[str, Any] = {"asyncio": asyncio, "SourceConfig": SourceConfig}
    exec(source + test, defined)
    defined["test_an_empty_response_is_the_last_page"]()


def test_the_document_has_every_source_with_its_limits() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\w,]+) \| ([\w,]+) \|$", DOCUMENT, re.MULTILINE)
    documented = {name: (page_size, depth) for name, page_size, depth in rows}

    def written(number: int | None) -> str:
        return "any" if number is None else f"{number:,}"

    sources = {name: protocol.load(name, SourceConfig()) for name in protocol.SOURCES.installed()}
    assert documented == {name: (written(source.page_size), written(source.depth)) for name, source in sources.items()}

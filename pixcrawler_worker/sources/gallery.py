"""A folder of pictures behind a web server, one subfolder per label, described by an `index.json`.

The index maps each label to its pictures, each a path relative to the index or an object with `file` and, where known,
`title`, `author`, `license`, `license_url`, `page_url` and `attribution`:

    {"cat": ["cat/1.jpg", {"file": "cat/2.jpg", "license": "cc0-1.0"}]}
"""

import json
from typing import ClassVar
from urllib.parse import quote, urljoin

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.reasons import RefusedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, SourceConfig
from pixcrawler_worker.web.fetch import Downloader

_CREDITS = ("title", "author", "license", "license_url", "page_url", "attribution")
_LARGEST_INDEX = 64 * 1024 * 1024


class Gallery:
    """Offers the pictures that the index has under the keyword."""

    summary: ClassVar[str] = "a folder of pictures behind a web server, a subfolder per label (PIXCRAWLER_GALLERY_URL)"
    max_pages: ClassVar[int | None] = None

    def __init__(self, config: SourceConfig) -> None:
        self._base = None if config.base_url is None else config.base_url.rstrip("/") + "/"

    def missing(self) -> str | None:
        """Return what to set when there is no base URL."""
        return None if self._base else "set PIXCRAWLER_GALLERY_URL to where the folder's index.json is served"

    async def search(self, query: Query, downloader: Downloader) -> Page:
        """Return one page of the pictures under the keyword, in the index's order; labels are compared without case."""
        if self._base is None:
            raise PermanentError(f"the gallery is not configured: {self.missing()}")
        entries = self._entries(await self._index(downloader), query.text)
        start = query.page * query.page_size
        chosen = entries[start : start + query.page_size]
        return Page(tuple(self._candidate(self._base, entry) for entry in chosen), start + len(chosen) < len(entries))

    async def _index(self, downloader: Downloader) -> object:
        url = urljoin(f"{self._base}", "index.json")
        try:
            answer = await downloader.fetch(url, max_bytes=_LARGEST_INDEX)
        except RefusedError as error:
            raise TransientError(f"the gallery's index could not be read: {error}") from error
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise PermanentError(f"the gallery's index at {url} is not JSON: {error}") from error

    def _entries(self, index: object, text: str) -> list[object]:
        if not isinstance(index, dict):
            raise PermanentError("the gallery's index must be an object that maps labels to lists of pictures")
        found: object = next((index[label] for label in index if label.casefold() == text.casefold()), [])
        if not isinstance(found, list):
            raise PermanentError(f"the gallery's index has no list of pictures under {text!r}")
        return found

    def _candidate(self, base: str, entry: object) -> Candidate:
        described: dict[str, object] = entry if isinstance(entry, dict) else {"file": entry}
        file = described.get("file")
        if not isinstance(file, str):
            raise PermanentError("an entry of the gallery's index has no file")
        known = {name: value for name in _CREDITS if isinstance(value := described.get(name), str)}
        return Candidate(url=urljoin(base, quote(file)), credit=Credit(**known))

"""A folder of images on a web server, one subfolder per label, described by an `index.json`.

The index maps each label to its images. Each is the name of a file, relative to the index and not percent-encoded, or
an http or https URL; or an object with such a `file` and, where known, `title`, `author`, `license`, `license_url`,
`page_url` and `attribution`:

    {"cat": ["cat/1.jpg", {"file": "cat/2.jpg", "license": "cc0-1.0"}]}
"""

from http import HTTPStatus
from typing import ClassVar
from urllib.parse import quote, urljoin

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.safe_text import normalized
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient, read_json

_CREDITS = ("title", "author", "license", "license_url", "page_url", "attribution")


class Gallery(Source):
    """Offers the images that the index has under the keyword."""

    summary: ClassVar[str] = "a folder of images on a web server, a subfolder per label"
    terms: ClassVar[str] = "licenses as its index.json has them"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._base = None if config.base_url is None else config.base_url.rstrip("/") + "/"

    def missing(self) -> str | None:
        """Return what to set when there is no base URL."""
        return None if self._base else "set PIXCRAWLER_GALLERY_URL to where the folder's index.json is served"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of the images under the keyword, in the index's order; labels are compared without case.

        Raises:
            TransientError: when the server of the index is busy or away.
            PermanentError: when the index is not there, or is not what it should be.
        """
        if self._base is None:
            raise PermanentError(f"the gallery is not configured: {self.missing()}")
        entries = self._entries(await self._index(http), query.text)
        start = query.page * query.page_size
        chosen = entries[start : start + query.page_size]
        found = [self._candidate(self._base, entry) for entry in chosen]
        candidates = tuple(filter(None, found))
        return Page(candidates, start + len(chosen) < len(entries), invalid=len(found) - len(candidates))

    async def _index(self, http: AsyncClient) -> object:
        url = urljoin(f"{self._base}", "index.json")
        response = await http.get(url)
        data = read_json(response, "gallery")
        if response.status_code != HTTPStatus.OK:
            raise PermanentError(f"the gallery's index at {url} answered {response.status_code}")
        return data

    def _entries(self, index: object, text: str) -> list[object]:
        if not isinstance(index, dict):
            raise PermanentError("the gallery's index must be an object that maps labels to lists of images")
        # The label as it is written, before one that differs in its case.
        same = (index[label] for label in index if _same(label) == _same(text))
        found: object = index[text] if text in index else next(same, [])
        if not isinstance(found, list):
            raise PermanentError(f"the gallery's index has no list of images under {text!r}")
        return found

    def _candidate(self, base: str, entry: object) -> Candidate | None:
        """Return the image of an entry; None for an entry without a file."""
        described: dict[str, object] = entry if isinstance(entry, dict) else {"file": entry}
        file = described.get("file")
        if not isinstance(file, str):
            return None
        known = {name: value for name in _CREDITS if isinstance(value := described.get(name), str)}
        if license_ := licenses.identifier(known.pop("license", "")):
            known["license"] = license_
        absolute = file.lower().startswith(("http://", "https://"))
        # A name that is not valid text (half a surrogate pair) becomes a URL that does not exist, and is counted.
        url = file if absolute else urljoin(base, quote(file, errors="surrogatepass"))
        return Candidate(url=url, credit=Credit(**known))


def _same(label: str) -> str:
    """Return what two spellings of one label have in common: macOS takes letters and their accents apart."""
    return normalized("NFC", label).casefold()

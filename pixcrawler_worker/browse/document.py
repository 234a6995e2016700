"""The HTML of a page: one document with its style, its script and its data, which loads nothing from elsewhere."""

import base64
import functools
import hashlib
from importlib import resources

from pixcrawler_worker import html_report
from pixcrawler_worker.domain.safe_text import safe

#: Where a document gets its images from: from itself, or from the server that it came from as well.
_OWN, _SERVED = "img-src blob: data:", "img-src blob: 'self'; connect-src 'self'"


def head(title: str, data: str, *, served: bool) -> str:
    """Return a document up to where its sheets of thumbnails begin; `END` ends it.

    Even if a text from outside were not escaped, no browser would run or load what it names: scripts and styles are
    those whose digests are in the policy.

    Args:
        title: plain text.
        data: JSON without `<`.
        served: whether a server has the thumbnails.
    """
    style, script = f"{html_report.COLORS}{_part('page.css')}", _part("page.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        f"{_SERVED if served else _OWN}; base-uri 'none'; form-action 'none'"
    )
    return (
        f"{html_report.head(safe(title), style=style, policy=policy)}<body>{_part('page.html')}"
        f'<script type="application/json" id="data">{data}</script><script>{script}</script>\n'
    )


def image(id_: str, jpeg: bytes) -> bytes:
    """Return an element with an image, which nothing decodes before the script reads it.

    Args:
        id_: of the element.
        jpeg: the file.
    """
    return b'<script type="text/plain" id="%s">%s</script>\n' % (id_.encode(), base64.b64encode(jpeg))


END = b"</body></html>\n"


@functools.cache
def _part(name: str) -> str:
    return resources.files("pixcrawler_worker.browse").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

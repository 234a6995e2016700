"""Pages of jobs in tests: their data, and jobs with images of all kinds."""

import json
import re
from pathlib import Path
from typing import Any

from export.exporting import StoredImage, crawl_of, image_bytes

from pixcrawler_worker.browse import content, page_file
from pixcrawler_worker.browse.page_file import WrittenPage
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.runtime import Runtime

#: Text that would run, or end its element, if it were not escaped.
HOSTILE = (
    """</script><script>document.title = "owned"</script><img src=x onerror="document.title='owned'">\u2028&amp;"""
)


def job_of(runtime: Runtime, count: int, *, first: int = 0, **values: Any) -> int:
    """Create an ended crawl job with different images of two labels, whose titles have their numbers."""
    stored = [
        StoredImage(
            image_bytes(number, size=(96 + number % 40, 72)),
            label=("cat", "dog")[number % 2],
            url=f"https://example.org/{number}.jpg",
            credit=Credit(
                title=f"photo {number}",
                author="Ada",
                license=("cc0-1.0", None)[number % 2],
                page_url="https://example.org",
            ),
        )
        for number in range(first, first + count)
    ]
    return crawl_of(runtime, stored, **values)


def written(runtime: Runtime, job_id: int, path: Path) -> WrittenPage:
    """Write the page of a job."""
    return page_file.write(runtime, content.read(runtime, job_id), path)


def data_of(html: str) -> dict[str, Any]:
    """Return the data of a page; images are objects."""
    (text,) = re.findall(r'<script type="application/json" id="data">([^<]*)</script>', html)
    data: dict[str, Any] = json.loads(text)
    data["images"] = [dict(zip(data["fields"], row, strict=True)) for row in data["images"]]
    return data


def sheets_of(html: str, kind: str = "sheet") -> dict[int, str]:
    """Return the base64 of the sheets or the previews in a page, by number."""
    return {
        int(number): body
        for number, body in re.findall(rf'<script type="text/plain" id="{kind}-(\d+)">([^<]*)</script>', html)
    }

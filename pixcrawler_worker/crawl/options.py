"""Options of a crawl, as a message or the command line has them."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, StrictBool

from pixcrawler_worker import options
from pixcrawler_worker.crawl.lists import plain_text
from pixcrawler_worker.domain import list_columns
from pixcrawler_worker.domain.keyword_expansion import MAX_SYNONYMS, MAX_VARIANTS, check_template
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.postgres_types import storable_json
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.options import MAX_NAMES, ImageFormat, Integer, License, Name, Number, Options, Size, Text

#: Bytes in a second with which images of usual sizes arrive before the deadline of a chunk.
MIN_RATE = 10_000
#: Seconds between two requests to a host: more would hold up a chunk whose images are redirected.
MAX_WAIT = 60

_Url = Annotated[Text, AfterValidator(plain_text.trimmed)]
_Template = Annotated[Name, AfterValidator(check_template)]


class ListEntry(Options):
    """A URL with what is known of its image."""

    url: _Url
    caption: Text | None = Field(None, description="of the image")
    label: Name | None = Field(None, description="of the image; by default that of the job")
    columns: Annotated[dict[str, JsonValue], AfterValidator(storable_json)] = Field(
        default_factory=dict, description="anything else, which is exported with the image"
    )


class CrawlOptions(Options):
    """Options of a crawl. They are recorded in the ledger, so that a retry or a recovery needs no message."""

    sources: tuple[Name, ...] | None = Field(
        None, max_length=MAX_NAMES, description="names of sources; by default all that are configured"
    )
    urls: tuple[_Url | ListEntry, ...] = Field(
        (),
        description="URLs for the source `urls`, or objects with a URL, a caption, a label and further columns; "
        "spaces, quotation marks and brackets around the URLs are ignored",
    )
    licenses: tuple[License, ...] | None = Field(
        None,
        max_length=MAX_NAMES,
        description="licenses and families to accept, such as cc0 or cc-by-4.0; all by default",
    )
    min_width: Size = Field(32, description="pixels")
    min_height: Size = Field(32, description="pixels")
    target_side: Size | None = Field(
        None,
        description="pixels: of several sizes of an image take the smallest whose shorter side has so many, and "
        "another one when that is gone; by default a size that suits most datasets",
    )
    variants: tuple[_Template, ...] = Field(
        (),
        max_length=MAX_VARIANTS,
        description="templates of further searches for each keyword, such as `{keyword} close-up`",
    )
    synonyms: dict[Name, Annotated[tuple[Name, ...], Field(max_length=MAX_SYNONYMS)]] = Field(
        {}, max_length=MAX_NAMES, description="further searches by keyword, such as translations; labels stay the same"
    )
    formats: tuple[ImageFormat, ...] | None = Field(
        None, max_length=MAX_NAMES, description="image formats to accept, such as jpg or png; all by default"
    )
    chunk_size: Annotated[int, Integer(1, 1000)] | None = Field(
        None, description="candidates per chunk; by default the setting PIXCRAWLER_CHUNK_SIZE"
    )
    max_rounds: Annotated[int, Integer(1, 100)] = Field(5, description="rounds, the first one included")
    safe_search: StrictBool = Field(True, description="exclude adult content, where the source supports it")
    respect_opt_outs: StrictBool = Field(
        True, description="reject images whose owner opts out with X-Robots-Tag or tdm-reservation"
    )
    respect_robots: StrictBool = Field(True, description="reject images that the robots.txt of their host disallows")
    skip_known: StrictBool = Field(
        False, description="leave out the URLs and the files that other jobs of the project have as images"
    )
    extends: Size | None = Field(
        None,
        description="id of a crawl job of the project, which has ended: leave out what it has, and export its images "
        "with those of this job",
    )
    reproducible: StrictBool = Field(
        False,
        description="take the candidates of a result page in their order, so that the same ones become the same images "
        "however fast their hosts are; without spare downloads, which takes longer",
    )
    limit_rate: Annotated[int, Integer(MIN_RATE)] | None = Field(
        None, description="bytes of image files in a second, of all workers together; no limit by default"
    )
    wait: Annotated[float, Number(minimum=0, maximum=MAX_WAIT)] = Field(
        0.0,
        description="seconds from one request for an image to the next one at the same host, of all workers together",
    )

    def rows(self) -> Iterator[ListRow]:
        """Yield the rows of the URL list."""
        for entry in self.urls:
            if isinstance(entry, str):
                yield ListRow(entry)
            else:
                columns = list_columns.kept_columns(entry.columns) or {}
                yield ListRow(entry.url, list_columns.kept_caption(entry.caption), entry.label, columns)


def parse(raw: object) -> CrawlOptions:
    """Return the options in a message.

    Raises:
        PermanentError: when an option is unknown or a value is invalid; the message names it.
    """
    return options.parse(CrawlOptions, raw, "options")


def in_row(keywords: object) -> CrawlOptions | None:
    """Return the options that the row of a job has: in `keywords`, as `{"keywords": [...], "options": {...}}`.

    None when it has none.

    Raises:
        PermanentError: when an option is unknown or invalid, or beside `options`, not in it; the message names it.
    """
    if not isinstance(keywords, Mapping):
        return None
    names = ["options", *CrawlOptions.model_fields]
    for key in keywords.keys() - {"keywords", "options"}:
        # Any other key is ignored, as ever. One that was meant as an option must not be.
        if difflib.get_close_matches(str(key).lower(), names, n=1, cutoff=0.8):
            raise PermanentError(f"keywords.{options.short(str(key))}: options of the job belong into keywords.options")
    raw = keywords.get("options")
    return None if raw is None else options.parse(CrawlOptions, raw, "keywords.options")


def recorded(values: CrawlOptions) -> dict[str, Any]:
    """Return the options as the ledger records them: without defaults, and without the URLs, which have a table."""
    return values.model_dump(mode="json", exclude={"urls"}, exclude_defaults=True)

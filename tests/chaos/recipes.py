"""What the jobs of a run ask for, and what an ended job has brought, so that two runs of one recipe can be compared."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from chaos.servers import KEYWORD
from chaos.services import WebServers

#: Responses that are no images: each is a rejection with a reason of its own.
_BAD = ("404", "html", "html-as-jpeg", "truncated-image", "empty", "bomb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A crawl, and the validation and the export of what it brings.

    Attributes:
        name: of the recipe.
        good, bad: URLs of images, and of other things.
        keyword: for the provider, in place of a URL list.
        chunk_size: candidates of a chunk.
        max_images: of the crawl; by default all that there are.
        rules: of the validation.
        format: of the export.
        options: of the export.
        exact: whether two runs bring the same images; otherwise only their number is the same.
        unsteady: whether its host fails at times, so that its result may differ.
    """

    name: str
    good: int = 0
    bad: int = 0
    keyword: str | None = None
    chunk_size: int = 8
    max_images: int | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    format: str = "zip"
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True
    unsteady: bool = False

    def crawl_options(self, servers: WebServers) -> dict[str, Any]:
        """Return the options of the crawl."""
        if self.keyword:
            return {"sources": ["commons"], "chunk_size": self.chunk_size, "max_rounds": 3}
        base = servers.unsteady if self.unsteady else servers.steady
        urls = [f"{base}/good/{self.name}-{number}.jpg" for number in range(self.good)]
        for number in range(self.bad):
            urls.insert(number * 7 % len(urls), f"{base}/bad/{_BAD[number % len(_BAD)]}/{number}.jpg")
        return {"urls": urls, "chunk_size": self.chunk_size}

    @property
    def limit(self) -> int:
        """The crawl's `max_images`."""
        return self.max_images or 2 * (self.good + self.bad) or 150


#: Small files are invalid, so that `valid_images` is less than the number of rows.
_SOME_INVALID = {"level": "standard", "checks": {"file_size": {"min_bytes": 1900}}}
RECIPES = (
    Recipe(name="list", good=80, bad=12, rules=_SOME_INVALID, options={"archive": {"part_max_images": 12}}),
    Recipe(name="short", good=24, chunk_size=3, rules={"level": "basic"}, format="csv"),
    Recipe(name="provider", keyword=KEYWORD, chunk_size=10, rules={"level": "strict"}, format="tar"),
    Recipe(name="limited", good=90, max_images=30, chunk_size=10, exact=False, rules={"level": "basic"}),
    Recipe(
        name="long",
        good=200,
        bad=6,
        chunk_size=6,
        rules=_SOME_INVALID,
        format="tar",
        options={"archive": {"part_max_images": 20}},
    ),
)
#: For jobs that a fault may cancel, delete or damage.
SET_APART = (
    Recipe(
        name="apart", good=120, bad=6, chunk_size=6, rules=_SOME_INVALID, options={"archive": {"part_max_images": 6}}
    ),
    Recipe(name="unsteady", good=60, chunk_size=6, unsteady=True, rules={"level": "basic"}, format="csv"),
)


@dataclass(frozen=True, slots=True)
class CrawlResult:
    """What a crawl has brought."""

    status: str
    images: frozenset[tuple[str, str]]
    counters: Mapping[str, int]
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What a validation has found, by the URLs of images."""

    status: str
    counters: Mapping[str, int]
    results: frozenset[tuple[str, bool, str]]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export has written: its archives with size and SHA-256, of what lies in storage."""

    status: str
    images: int
    size: int
    archives: tuple[tuple[str, int, str], ...]


Result = CrawlResult | ValidationResult | ExportResult


def crawl_result(connection: psycopg.Connection, job_id: int) -> CrawlResult:
    """Read what a crawl has brought."""
    images = connection.execute(
        "SELECT original_url, encode(sha256, 'hex') FROM images JOIN pixcrawler.image_facts ON image_id = images.id"
        " WHERE images.crawl_job_id = %s",
        (job_id,),
    ).fetchall()
    status, *counters = _one(
        connection,
        # Not the number of chunks: what a chunk had to leave under trouble is the work of another one.
        "SELECT status, total_images, downloaded_images, total_chunks - completed_chunks FROM crawl_jobs WHERE id = %s",
        job_id,
    )
    reasons = connection.execute(
        "SELECT key, sum(value::int)::int FROM pixcrawler.chunks, jsonb_each_text(result->'reasons')"
        " WHERE crawl_job_id = %s GROUP BY key",
        (job_id,),
    ).fetchall()
    names = ("total_images", "downloaded_images", "incomplete_chunks")
    return CrawlResult(
        status,
        frozenset((url, digest) for url, digest in images),
        dict(zip(names, counters, strict=True)),
        dict(reasons),
    )


def validation_result(connection: psycopg.Connection, job_id: int) -> ValidationResult:
    """Read what a validation has found."""
    status, *counters = _one(
        connection,
        "SELECT status, total_images, validated_images, invalid_images FROM validation_jobs WHERE id = %s",
        job_id,
    )
    results = connection.execute(
        "SELECT original_url, valid, (SELECT string_agg(finding::text, ' ' ORDER BY finding::text)"
        " FROM jsonb_array_elements(findings) AS finding)"
        " FROM pixcrawler.verdicts JOIN images ON images.id = image_id WHERE validation_job_id = %s",
        (job_id,),
    ).fetchall()
    names = ("total_images", "validated_images", "invalid_images")
    return ValidationResult(
        status,
        dict(zip(names, counters, strict=True)),
        frozenset((url, valid, str(text)) for url, valid, text in results),
    )


def export_result(connection: psycopg.Connection, job_id: int) -> ExportResult:
    """Read what an export has written, and hash it."""
    status, images, size, url, options = _one(
        connection,
        "SELECT status, exported_images, file_size, download_url, export_options FROM export_jobs WHERE id = %s",
        job_id,
    )
    archives = []
    if status == "completed":
        folder = Path(unquote(urlsplit(url).path)).parent
        for part in options["result"]["parts"]:
            body = (folder / part["name"]).read_bytes()
            archives.append((part["name"], len(body), hashlib.sha256(body).hexdigest()))
    return ExportResult(status, images or 0, size or 0, tuple(archives))


def differences(expected: Result, found: Result, *, exact: bool) -> list[str]:
    """Return in what a result differs from that of an undisturbed run; only numbers of images unless `exact`."""
    if not exact:
        expected, found = _sizes(expected), _sizes(found)
    differing = []
    for name in (one.name for one in fields(expected)):
        before, after = getattr(expected, name), getattr(found, name)
        if before == after:
            continue
        if isinstance(before, frozenset):
            missing, extra = sorted(before - after), sorted(after - before)
            differing.append(f"{name}: {len(missing)} missing {missing[:2]}, {len(extra)} unexpected {extra[:2]}")
        else:
            differing.append(f"{name}: {after} instead of {before}")
    return differing


@dataclass(frozen=True, slots=True)
class _Size:
    status: str
    images: int


def _sizes(result: Result) -> Any:
    match result:
        case CrawlResult():
            return _Size(result.status, len(result.images))
        case ValidationResult():
            return _Size(result.status, len(result.results))
        case ExportResult():
            return _Size(result.status, result.images)


def _one(connection: psycopg.Connection, statement: str, job_id: int) -> tuple[Any, ...]:
    row = connection.execute(statement.encode(), (job_id,)).fetchone()
    if row is None:
        raise LookupError(f"job {job_id} is gone")
    return row

"""The arguments that `pixcrawler crawl` and `pixcrawler build` share, and the crawl that they describe."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, TypeVar, cast

import click

from pixcrawler_worker import logs, runtime
from pixcrawler_worker.cli import arguments, console, environment
from pixcrawler_worker.crawl import options, synonym_tables
from pixcrawler_worker.crawl.lists import reading, remote
from pixcrawler_worker.crawl.lists.rows import Columns, Notes
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.domain import keyword_expansion
from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.domain.licenses import FAMILIES
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.masking import mask_url
from pixcrawler_worker.sources import protocol

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT_IMAGES = 1000
#: Suffixes of a rate, as curl has them.
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class CrawlArguments:
    """The parsed arguments of a command that creates a crawl job.

    Attributes:
        keywords: of the job.
        options: of the job.
        max_images: of the job.
        listed: its URL list, empty for none; None for the one in its options.
        origin: path or URL of the list, its SHA-256 and the names of its columns; None without a list, for one from
            stdin, and for a URL that may have a secret in it.
    """

    keywords: tuple[Any, ...]
    options: CrawlOptions
    max_images: int
    listed: StoredList | None = None
    origin: Mapping[str, str] | None = None


class RawCrawlOptions(TypedDict):
    """The values of the options as click passes them to a command."""

    max_images: int | None
    sources: tuple[str, ...]
    licenses: tuple[str, ...]
    min_width: int | None
    min_height: int | None
    target_side: int | None
    variants: tuple[str, ...]
    synonyms: BinaryIO | None
    urls: BinaryIO | str | None
    url_column: str | None
    caption_column: str | None
    label_column: str | None
    ignore_opt_outs: bool
    ignore_robots: bool
    limit_rate: int | None
    wait: float | None
    skip_known: bool
    extend: int | None


def given(raw: RawCrawlOptions) -> set[str]:
    """Return the names of the options that a command was given: 0 and an empty text are values, too."""
    return {name for name, value in raw.items() if value is not None and value is not False and value != ()}


class _Rate(click.ParamType["str | int", "int"]):
    """Bytes in a second, such as 500k or 2.5M, as curl, wget and gallery-dl take them."""

    name = "rate"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(
            r"(\d{1,12}(?:\.\d{1,6})?)([kmg]?)(?:i?b)?(?:/s)?", value.strip(), re.ASCII | re.IGNORECASE
        )
        if found is None:
            self.fail(f"expected bytes in a second, such as 500k or 2M, got {value!r}", param, ctx)
        return round(float(found[1]) * _UNITS[found[2].lower()])


class _ListFile(click.File):
    """A file, `-`, or the URL of a list, which is left as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - as click's
        if isinstance(value, str) and remote.is_remote(value):
            return value
        return super().convert(value, param, ctx)


_OPTIONS = (
    click.option(
        "--max-images",
        type=arguments.NUMBER,
        help="Number of images to collect.  [default: the length of the URL list, or 1000]",
    ),
    click.option(
        "--source",
        "sources",
        multiple=True,
        metavar="NAME",
        shell_complete=arguments.completing(protocol.SOURCES.installed),
        help="Source to search; repeat it for several.  [default: all that are configured]",
    ),
    click.option(
        "--license",
        "licenses",
        multiple=True,
        metavar="NAME",
        shell_complete=arguments.completing(lambda: FAMILIES),
        help="License to accept, such as cc0 or cc-by; repeat it for several.  [default: all]",
    ),
    click.option("--min-width", type=arguments.NUMBER, metavar="PIXELS", help="Minimum width.  [default: 32]"),
    click.option("--min-height", type=arguments.NUMBER, metavar="PIXELS", help="Minimum height.  [default: 32]"),
    click.option(
        "--target-side",
        type=arguments.NUMBER,
        metavar="PIXELS",
        help="Of several sizes of an image, take the smallest whose shorter side has so many pixels.  [default: a size "
        "that suits most datasets]",
    ),
    click.option(
        "--urls",
        type=_ListFile("rb"),
        help="List of URLs: text, CSV, TSV, JSON or Parquet, or .gz or .zst of these: a file, - for stdin, or a URL "
        "with http://, https:// or s3://. A single KEYWORD labels its images.",
    ),
    click.option(
        "--url-column",
        metavar="NAME",
        help="Column of the list that has the URLs.  [default: found by its name, or by what is in it]",
    ),
    click.option(
        "--caption-column",
        metavar="NAME",
        help="Column of the list that has the captions.  [default: found by its name, such as caption, text or alt]",
    ),
    click.option(
        "--label-column",
        metavar="NAME",
        help="Column of the list that has the labels of the images.  [default: found by its name, such as label, class "
        'or category; "" for none]',
    ),
    click.option(
        "--variant",
        "variants",
        multiple=True,
        metavar="TEMPLATE",
        help="Further search for each keyword, such as '{keyword} close-up'; repeat it for several.",
    ),
    click.option(
        "--synonyms",
        type=click.File("rb"),
        help="Table of further searches, such as translations: CSV, a keyword and its synonyms in each row, or JSON.",
    ),
    click.option(
        "--ignore-opt-outs",
        is_flag=True,
        help="Keep images whose owner opts out of indexes, AI training, or text and data mining.",
    ),
    click.option("--ignore-robots", is_flag=True, help="Request images that the robots.txt of their host disallows."),
    click.option(
        "--limit-rate",
        type=_Rate(),
        metavar="RATE",
        help="Bytes of image files in a second, such as 500k or 2M, of all workers together.  [default: no limit]",
    ),
    click.option(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="Seconds from one request for an image to the next one at the same host.  [default: 0]",
    ),
    click.option(
        "--skip-known", is_flag=True, help="Leave out the URLs and the files that other jobs of the project have."
    ),
    click.option(
        "--extend",
        type=arguments.NUMBER,
        metavar="JOB",
        help="Add to the dataset of a crawl job: leave out what it has, and export its images together with the new "
        "ones.",
    ),
)


def add_options(command: Command) -> Command:
    """Add the options that `parse` reads to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse(keywords: Iterable[str], raw: RawCrawlOptions) -> CrawlArguments:
    """Return the crawl that the arguments describe.

    Raises:
        click.UsageError: when they are invalid; the message says which value is wrong, with the nearest valid name.
    """
    keywords = tuple(keywords)
    columns = Columns(raw["url_column"], raw["caption_column"], raw["label_column"])
    for name, column in columns._asdict().items():
        if column is not None and raw["urls"] is None:
            raise click.UsageError(f"--{name}-column names a column of a list: give the list with --urls")
    try:
        parse_keywords(list(keywords))
        for name in raw["sources"]:
            protocol.SOURCES.require(name)
        synonyms = None if raw["synonyms"] is None else synonym_tables.read(raw["synonyms"], _name(raw["synonyms"]))
        stored, digest = stored_list(raw["urls"], columns)
        listed = click.get_current_context().with_resource(stored)
        values = {
            "sources": list(raw["sources"]),
            "licenses": list(raw["licenses"]),
            "min_width": raw["min_width"],
            "min_height": raw["min_height"],
            "target_side": raw["target_side"],
            "variants": list(raw["variants"]),
            "synonyms": synonyms,
            "respect_opt_outs": not raw["ignore_opt_outs"],
            "respect_robots": not raw["ignore_robots"],
            "limit_rate": raw["limit_rate"],
            "wait": raw["wait"],
            "skip_known": raw["skip_known"],
            "extends": raw["extend"],
        }
        parsed = options.parse({name: value for name, value in values.items() if value not in (None, [])})
        check(keywords, parsed, has_list=len(listed) > 0)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    max_images = raw["max_images"] or len(listed) or _DEFAULT_IMAGES
    return CrawlArguments(keywords, parsed, max_images, listed, _origin(raw["urls"], digest, columns))


def check(keywords: tuple[Any, ...], parsed: CrawlOptions, *, has_list: bool) -> None:
    """Check that keywords, options and a URL list fit to each other.

    Raises:
        PermanentError: when they do not.
    """
    labels = parse_keywords(list(keywords))
    keyword_expansion.expanded(labels, variants=parsed.variants, synonyms=parsed.synonyms)
    if has_list and len(labels) > 1:
        raise PermanentError("a URL list has one label: give one KEYWORD with --urls")
    if has_list and not parsed.sources and (parsed.variants or parsed.synonyms):
        raise PermanentError("--variant and --synonyms are for searches: nothing is searched for a URL list")


class _Hashed:
    """A file whose bytes are hashed as they are read, from the first to the last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        block = self._file.read(size)
        self._hash.update(block)
        return block

    def digest(self) -> str:
        """Return the SHA-256 of the whole file."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def _origin(where: BinaryIO | str | None, digest: str, columns: Columns) -> dict[str, str] | None:
    path = where if isinstance(where, str) else getattr(where, "name", None)
    if not isinstance(path, str) or path in {"-", "<stdin>"}:
        return None
    if has_secret(path):
        return None
    named = {f"{name}_column": column for name, column in columns._asdict().items() if column is not None}
    return {"path": path if remote.is_remote(path) else str(Path(path).absolute()), "sha256": digest, **named}


def has_secret(path: str) -> bool:
    """Return whether the path of a list is a URL with a signature or a password, which no row and no recipe has."""
    return remote.is_remote(path) and mask_url(path) != path


def stored_list(where: BinaryIO | str | None, columns: Columns) -> tuple[StoredList, str]:
    """Return the rows of a list, of a file or of one at a URL, and the SHA-256 of the list.

    Raises:
        PermanentError: when it cannot be read; the message says why.
    """
    if where is None:
        return StoredList(()), ""
    if isinstance(where, str):
        settings = environment.load_settings()
        logs.configure(settings.log_format, level=30)
        downloader = runtime.file_downloader(settings, max_bytes=remote.MAX_WHOLE_BYTES, deadline=remote.DEADLINE)
        with remote.opened(where, downloader) as file:
            return _stored(file, remote.name(where), columns)
    return _stored(where, _name(where), columns)


def _stored(file: BinaryIO, name: str, columns: Columns) -> tuple[StoredList, str]:
    hashed, notes = _Hashed(file), Notes()
    with contextlib.ExitStack() as opened:
        stored = opened.enter_context(StoredList(reading.read(cast("BinaryIO", hashed), name, columns, notes)))
        for line in notes.lines(name):
            click.echo(f"pixcrawler: {console.printable(line)}", err=True)
        digest = hashed.digest()
        opened.pop_all()
    return stored, digest


def _name(file: BinaryIO) -> str:
    """Return the name of a file for messages."""
    return Path(getattr(file, "name", "stdin")).name.strip("<>")

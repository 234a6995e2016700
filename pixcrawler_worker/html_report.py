"""Parts of HTML reports: style sheet, tiles, tables with bars, and thumbnails with links.

A report is one file without external references that loads nothing: its links lead to files of the dataset and to web
pages. All text is escaped here.
"""

import asyncio
import base64
import csv
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote, urlsplit

import structlog

from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.domain.safe_text import safe_lines, safe_url
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

#: Images that are read at a time. The decoder takes one after the other, and they may be large.
_MAX_READS = 8
#: Longer side of a thumbnail in pixels: twice its size on the screen, for screens with a high resolution.
_THUMBNAIL_SIDE = 224
#: Rows of a table; those beyond are added up in one.
_MAX_ROWS = 30
#: Bytes in a kB, kilobytes in a MB, ...
_UNIT = 1000
#: Characters of a file name without its extension that are shown.
_NAME_LENGTH = 12

#: Colors of pages in light and dark; text in any of them is readable on `--page`, and on `--card`.
COLORS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d9dee4; --edge: #868f99; --page: #fff;
  --bar: #3b7dd8; --card: #f5f7f9; --bad: #b54a22; --link: #0b57b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3adb8; --line: #343a41; --edge: #727c87;
  --page: #15181b; --bar: #6aa5f2; --card: #1e2226; --bad: #e88a63; --link: #8ab8f5; } }
"""
_STYLE = (
    COLORS
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); } .unit { display: inline-block; } code { font-size: .95em; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
h2 small, h3 small, .soft { color: var(--soft); font-weight: 400; }
.soft { margin: .25rem 0; font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin-top: 1.25rem; }
.tile { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { padding: .3rem 0; vertical-align: top; text-align: left; font-weight: 400; }
thead th, thead th.todo { color: var(--soft); font-size: .8rem; vertical-align: bottom; }
tbody tr, tfoot tr { border-top: 1px solid var(--line); }
tfoot th, tfoot td { font-weight: 600; }
.n { width: 6rem; text-align: right; padding-right: .75rem; font-variant-numeric: tabular-nums; }
thead .n { overflow-wrap: normal; }
.bar { width: 30%; }
.bar i { display: block; height: .6rem; margin-top: .45rem; border-radius: .2rem; background: var(--bar); }
.bad .bar i { background: var(--bad); }
.advised .bar { width: 14%; }
.todo { width: 44%; padding-left: .75rem; color: var(--soft); font-size: .85rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .75rem .5rem; }
.sheet figure { margin: 0; }
.sheet img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .3rem;
  border: 1px solid var(--line); background: var(--card); }
.sheet figcaption { color: var(--soft); font-size: .75rem; line-height: 1.4; margin-top: .2rem; }
.sheet figcaption a { white-space: nowrap; }
.hist { display: block; width: 100%; fill: var(--bar); } .hist .bad { fill: var(--bad); }
.hist line { stroke: var(--ink); stroke-dasharray: 2 2; }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .75rem;
  border-top: 1px solid var(--line); }
.hist-title small { display: block; }
@media (max-width: 40rem) { .advised .bar { display: none; } .n { width: 4.75rem; } .bar { width: 24%; } }
"""
)
#: Even if text from outside were not escaped, no browser would run or load what it names.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(title: str, parts: Iterable[str]) -> str:
    """Return an HTML document.

    Args:
        title: plain text.
        parts: the HTML of the body, in order.
    """
    lines = (head(title, style=_STYLE, policy=_POLICY), "<body><main>", *parts, "</main></body></html>")
    # Escaping for HTML leaves what controls the direction of text, and a terminal on which the file is printed.
    return safe_lines("\n".join(lines))


def head(title: str, *, style: str, policy: str) -> str:
    """Return the HTML of a document before its body.

    Args:
        title: plain text.
        style: the style sheet.
        policy: its Content-Security-Policy.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - PixCrawler</title><style>{style}</style></head>"
    )


def save(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write an HTML document and return its path. A missing directory is created.

    Args:
        path: the file, which is replaced.
        title: plain text.
        parts: the HTML of the body, in order.

    Raises:
        PermanentError: when the file cannot be written.
    """
    content = document(title, parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of a name with bytes that are not UTF-8, what can be written is.
        path.write_text(content, encoding="utf-8", errors="replace")
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error}") from error
    return path


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Return tiles, each with a large number and its label. Both are HTML."""
    boxes = "".join(f'<div class="tile"><b>{number}</b>{text}</div>' for number, text in numbers)
    return f'<div class="tiles">{boxes}</div>'


def frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent names with their counts, and a row with the sum of the others."""
    ordered = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    rest = ordered[_MAX_ROWS:]
    return [*ordered[:_MAX_ROWS], *([(f"{len(rest):,} more", sum(count for _, count in rest))] if rest else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of counts with bars and their sum. All texts are plain.

    Attributes:
        heading: of its section.
        counts: names with their counts.
        column: heading of the column with the names.
        unit: what is counted.
        is_bad: whether it counts errors, which have another color.
        note: a sentence below the heading, with code between backticks.
        advice: what to do about each of the names, likewise; empty for a table without that column.
    """

    heading: str
    counts: Sequence[tuple[str, int]]
    column: str
    unit: str = "images"
    is_bad: bool = False
    note: str = ""
    advice: Sequence[str] = ()

    def html(self) -> str:
        """Return the section with the table; nothing when there are no counts."""
        if not self.counts:
            return ""
        kinds = [*(["bad"] if self.is_bad else []), *(["advised"] if self.advice else [])]
        todo = '<th scope="col" class="todo">What to do</th>' if self.advice else ""
        note = f'<p class="soft">{_prose(self.note)}</p>' if self.note else ""
        total = sum(count for _, count in self.counts)
        return (
            f'<section class="{" ".join(kinds)}"><h2>{escape(self.heading)}</h2>{note}<table><thead><tr>'
            f'<th scope="col">{escape(self.column)}</th><th scope="col" class="n">{escape(self.unit)}</th>'
            f'<th scope="col" class="bar"><span class="unseen">as a bar</span></th>{todo}</tr></thead>'
            f'<tbody>{self._rows()}</tbody><tfoot><tr><th scope="row">total</th><td class="n">{total:,}</td>'
            f'<td class="bar"></td>{"<td></td>" if self.advice else ""}</tr></tfoot></table></section>'
        )

    def _rows(self) -> str:
        largest = max(1, *(count for _, count in self.counts))
        advice = [f'<td class="todo">{_prose(text)}</td>' for text in self.advice] or [""] * len(self.counts)
        return "".join(
            f'<tr><th scope="row">{_name(name)}</th><td class="n">{count:,}</td>'
            f'<td class="bar"><i style="width:{_width(count, largest)}%"></i></td>{text}</tr>'
            for (name, count), text in zip(self.counts, advice, strict=True)
        )


def _name(name: str) -> str:
    """Return the name of a row. A word in parentheses at its end is not divided where it fits into a line."""
    return re.sub(r"\((\w+)\)$", r'<span class="unit">(\1)</span>', escape(name)) or "(none)"


def _prose(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def size(count: int) -> str:
    """Return a number of bytes in the largest unit that gives at least 1."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < _UNIT:
            break
        value, unit = value / _UNIT, larger
    return f"{value:,.1f} {unit}" if unit != "bytes" else f"{count:,} bytes"


def _width(count: int, largest: int) -> int:
    return max(1, round(100 * count / largest)) if count > 0 else 0


@dataclass(frozen=True, slots=True)
class Places:
    """Where an image is found.

    Attributes:
        name: of its file in the dataset; that of its row where there is no dataset.
        file: path of the file, relative to the report; None where there is none to open.
        page_url: web page that shows the image; None when it is unknown.
        original_url: URL that it was downloaded from.
    """

    name: str
    file: str | None = None
    page_url: str | None = None
    original_url: str | None = None

    def html(self) -> str:
        """Return the name, and links to the file, the web page and the original."""
        name, dot, extension = self.name.rpartition("/")[2].rpartition(".")
        folder = self.name[: len(self.name) - len(name + dot + extension)]
        short = name if len(name) <= _NAME_LENGTH + 3 else f"{name[:_NAME_LENGTH]}\N{HORIZONTAL ELLIPSIS}"
        shown = f'<span title="{escape(self.name, quote=True)}">{escape(folder + short + dot + extension)}</span>'
        links = [
            (None if self.file is None else quote(self.file), "file"),
            (web_link(self.page_url), "source page"),
            (web_link(self.original_url), "original"),
        ]
        found = " ".join(
            f'<a href="{escape(href, quote=True)}" rel="noopener noreferrer">{text}</a>' for href, text in links if href
        )
        return f"{shown}<br>{found}" if found else shown


def web_link(url: str | None) -> str | None:
    """Return a URL that may be a link, None for any other.

    It is one of http or https with a host, and has nothing that a browser would read otherwise.
    """
    if url is None or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in {"http", "https"} and parts.hostname else None


class DatasetFiles:
    """The files of images in a dataset on disk, as its table names them.

    Args:
        folder: of the dataset; None when there is none.
        report: path of the report, to which links are relative.
        urls: URLs of the images that the report shows.
    """

    def __init__(self, folder: Path | None, report: Path, urls: Collection[str]) -> None:
        self._folder, self._report = folder, report
        self._names = {} if folder is None else _names(folder, frozenset(urls))

    def name(self, url: str) -> str | None:
        """Return the name in the dataset of the image with that URL; None when it has none."""
        return self._names.get(url)

    def file(self, url: str) -> str | None:
        """Return the path of its file relative to the report; None when the file is in an archive, or missing."""
        name = self._names.get(url)
        if self._folder is None or name is None:
            return None
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()) or not path.is_file():
            return None
        return Path(os.path.relpath(path, self._report.parent)).as_posix()


def _names(folder: Path, urls: Collection[str]) -> dict[str, str]:
    """Return the names of files by the URLs of their images; without a table that can be read, none."""
    written = {safe_url(url): url for url in urls}
    stem, _, extension = tables.NAME.partition(".")
    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"{stem}*.{extension}")):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    url, name = tables.text_of(row.get("source_url") or ""), row.get("file_name")
                    if url in written and name:
                        found.setdefault(written[url], name)
        except (OSError, ValueError, csv.Error) as error:
            log.info("the table of the dataset cannot be read", path=str(path), reason=str(error))
    return found


def figure(  # noqa: PLR0913 - one argument per thing that is shown
    thumbnail: bytes | None, caption: str, *, alt: str, places: Places, hint: str = "", note: str = ""
) -> str:
    """Return a thumbnail with its caption, or the caption alone when there is no thumbnail.

    Args:
        thumbnail: JPEG; None when the file is missing in storage or cannot be decoded.
        caption: plain text.
        alt: plain text, for readers that show no images.
        places: where the image is found.
        hint: plain text that is shown on hovering.
        note: plain text below the caption.
    """
    below = f"<br><q>{escape(note)}</q>" if note else ""
    if thumbnail is None:
        text = f"{escape(caption)}: file missing or not readable{below}<br>{places.html()}"
        return f"<figure><figcaption>{text}</figcaption></figure>"
    data = base64.b64encode(thumbnail).decode()
    text = f"{escape(caption)}{below}<br>{places.html()}"
    return (
        f'<figure title="{escape(hint, quote=True)}"><img alt="{escape(alt or caption, quote=True)}"'
        f' src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


async def thumbnails(
    runtime: Runtime, images: Iterable[tuple[int, str]], *, seconds: float | None = None
) -> dict[int, bytes]:
    """Return thumbnails as JPEG by image id; files that are missing or cannot be read or decoded have none.

    Args:
        runtime: connects to storage and decoder.
        images: ids of images with the storage URLs of their files.
        seconds: time after which the others have none; None to wait for all of them.

    Raises:
        TransientError: when the storage does not respond.
    """
    reads = asyncio.Semaphore(_MAX_READS)
    made: dict[int, bytes] = {}

    async def thumbnail(image_id: int, url: str) -> None:
        async with reads:
            try:
                body = await runtime.storage.get(runtime.storage.key(url))
                made[image_id] = await runtime.decoder.thumbnail(body, side=_THUMBNAIL_SIDE)
            except (PermanentError, RejectedError):
                pass
            except WorkerError as error:
                if not (isinstance(error, OutageError) and error.may_be_one_file):
                    raise
            except Exception:
                log.exception("no thumbnail: internal error", image=image_id)

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for image_id, url in images:
                group.create_task(thumbnail(image_id, url))
    except ExceptionGroup as group_error:
        # Concurrent reads fail for the same reason: one error is enough.
        raise group_error.exceptions[0] from None
    except TimeoutError:
        log.info("not all thumbnails were made in time", made=len(made))
    return made

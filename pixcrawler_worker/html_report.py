"""Parts of HTML reports: style sheet, tiles, bars, and thumbnails. A report is one file without external references."""

import asyncio
import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import structlog

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

#: Images that are read at a time. The decoder takes one after the other, and they may be large.
_MAX_READS = 8
#: Longer side of a thumbnail in pixels: twice its size on the screen, for screens with a high resolution.
_THUMBNAIL_SIDE = 224

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6671; --line: #d9dee4; --page: #fff; --bar: #3b7dd8;
  --card: #f5f7f9; --bad: #c4572e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4af; --line: #343a41; --page: #15181b;
  --bar: #6aa5f2; --card: #1e2226; --bad: #e88a63; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; overflow-wrap: anywhere; }
h2 small, h3 small, .soft { color: var(--soft); font-weight: 400; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin-top: 1.25rem; }
.tile { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td { border-top: 1px solid var(--line); padding: .3rem 0; overflow-wrap: anywhere; vertical-align: middle; }
td.n { width: 4.5rem; text-align: right; padding-right: .75rem; font-variant-numeric: tabular-nums; }
td.bar { width: 35%; }
td.bar i { display: block; height: .6rem; border-radius: .2rem; background: var(--bar); }
.bad td.bar i { background: var(--bad); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .5rem; }
.sheet figure { margin: 0; }
.sheet img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .3rem;
  border: 1px solid var(--line); background: var(--card); }
.hist { display: block; width: 100%; fill: var(--bar); } .hist .bad { fill: var(--bad); }
.hist line { stroke: var(--ink); stroke-dasharray: 2 2; }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .75rem;
  border-top: 1px solid var(--line); }
.hist-title small { display: block; }
.sheet figcaption { color: var(--soft); font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return an HTML document.

    Args:
        title: plain text.
        parts: the HTML of the body, in order.
    """
    lines = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)} - PixCrawler</title><style>{_STYLE}</style></head><body>",
        *parts,
        "</body></html>",
    )
    return "\n".join(lines)


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
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error}") from error
    return path


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Return tiles, each with a large number and its label. Both are HTML."""
    boxes = "".join(f'<div class="tile"><b>{number}</b>{text}</div>' for number, text in numbers)
    return f'<div class="tiles">{boxes}</div>'


def bars(heading: str, counts: Sequence[tuple[str, int]], *, kind: str = "") -> str:
    """Return a table of counts with bars; nothing when there are none.

    Args:
        heading: HTML.
        counts: names as plain text, with their counts.
        kind: a class of the section: `bad` for errors.
    """
    if not counts:
        return ""
    largest = max(count for _, count in counts)
    rows = "".join(
        f'<tr><td>{escape(name) or "(none)"}</td><td class="n">{count:,}</td>'
        f'<td class="bar"><i style="width:{max(1, round(100 * count / largest)) if count else 0}%"></i></td></tr>'
        for name, count in counts
    )
    return f'<section class="{kind}"><h2>{heading}</h2><table>{rows}</table></section>'


def figure(thumbnail: bytes | None, caption: str, *, alt: str, hint: str = "") -> str:
    """Return a thumbnail with its caption, or the caption alone when there is no thumbnail.

    Args:
        thumbnail: JPEG; None when the file is missing in storage or cannot be decoded.
        caption: plain text.
        alt: plain text, for readers that show no images.
        hint: plain text that is shown on hovering.
    """
    if thumbnail is None:
        return f"<figure><figcaption>{escape(caption)}: file missing or not readable</figcaption></figure>"
    data = base64.b64encode(thumbnail).decode()
    return (
        f'<figure title="{escape(hint, quote=True)}"><img alt="{escape(alt, quote=True)}"'
        f' src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
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

"""Use case: a folder with the images of a crawl job, a subfolder per label, and a table beside them."""

import asyncio
import csv
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from pixcrawler_worker.db import images
from pixcrawler_worker.db.images import Stored
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.planning import slug
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import FileMissingError

#: Files that are read from storage at a time.
_READS = 16
#: A spreadsheet takes a cell that begins like this for a formula, the full-width forms too.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Columns of the table: everything that is known but where the worker keeps the file.
_COLUMNS = tuple(field.name for field in fields(Stored) if field.name not in {"id", "storage_url"})


def write(
    runtime: Runtime, job_id: int, folder: Path, *, wrote: Callable[[int], None] = lambda _: None
) -> list[Stored]:
    """Write the job's images below `folder` as `<label>/<filename>`, with `images.csv`; return what was written.

    Args:
        runtime: what connects to database and storage.
        job_id: the crawl job.
        folder: made when it is missing; must be empty.
        wrote: told the number of files so far.

    Raises:
        PermanentError: when the folder has something in it, or cannot be written.
        TransientError: when the storage does not answer.
    """
    require_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listed = transact(runtime.sessions, lambda session: images.stored(session, job_id))
        written = runtime.run(_copy(runtime, listed, folder, wrote))
        _write_table(folder / "images.csv", written)
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error
    return written


def require_empty(folder: Path) -> None:
    """Return when a dataset can be written there: the folder is empty, or does not exist yet.

    Raises:
        PermanentError: when it has something in it, or cannot be looked into.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise PermanentError(f"{folder} is not empty: name a folder that is, or does not exist yet")
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


async def _copy(runtime: Runtime, listed: Sequence[Stored], folder: Path, wrote: Callable[[int], None]) -> list[Stored]:
    """Copy the files, several at a time; one that is missing in storage is left out."""
    turns = asyncio.Semaphore(_READS)
    done: set[int] = set()

    async def copy(image: Stored) -> None:
        async with turns:
            try:
                body = await runtime.storage.get(runtime.storage.key(image.storage_url))
            except FileMissingError:
                return
            await asyncio.to_thread(_put, folder / slug(image.label) / image.filename, body)
            done.add(image.id)
            wrote(len(done))

    try:
        async with asyncio.TaskGroup() as group:
            for image in listed:
                group.create_task(copy(image))
    except ExceptionGroup as troubles:
        # Copies under way meet the same trouble at the same time: one of them tells it.
        raise troubles.exceptions[0] from None
    return [image for image in listed if image.id in done]


def _put(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def _write_table(path: Path, written: Sequence[Stored]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", *_COLUMNS])
        for image in written:
            values = [f"{slug(image.label)}/{image.filename}", *(getattr(image, name) for name in _COLUMNS)]
            table.writerow([cell(value) for value in values])


def cell(value: object) -> object:
    """Return a value as a cell that no spreadsheet takes for a formula; None becomes the empty text.

    Source: OWASP, CSV Injection.
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULAS):
        return f"'{value}"
    return value

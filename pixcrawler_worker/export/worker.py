"""Running one chunk of an export: write an archive, or publish all of them."""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import structlog

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.chunk_results import EndedChunk
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.export import archive_writer, prepared, publisher, report
from pixcrawler_worker.export.archive_writer import ArchivePart
from pixcrawler_worker.export.image_reader import ImageFile, ImageReader
from pixcrawler_worker.export.payloads import (
    ArchiveResult,
    ArchiveTask,
    Publication,
    PublishTask,
    Unfinished,
    archives_of,
    task_of,
)
from pixcrawler_worker.export.plan import Plan, key
from pixcrawler_worker.export.prefetch import prefetch
from pixcrawler_worker.export.prepared import PreparedImages
from pixcrawler_worker.jobs.kind import Report, Rest, Tally
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.failures import FileMissingError

log = structlog.get_logger()

#: Images in a page that is read from the database, and pages that are read at a time, while others are written.
_PAGE, _PREFETCHED = 2000, 2
#: Bytes of captions and columns of lists in a page, by those of the image that has most of them.
_PAGE_BYTES = 16 * 1024 * 1024

#: Images that are read at a time where each may take long: an attempt prepares at least as many.
_SLOW_BATCH = 4
#: Share of the time until the deadline of a chunk after which an archive is not finished by its attempt.
_SHARE = 0.9
#: Bytes of a note about an archive: its labels and licenses are counted in it.
_MAX_NOTE_BYTES = 64 * 1024 * 1024

ExportChunkResult: TypeAlias = ArchiveResult | Unfinished | Publication


@dataclass(frozen=True, slots=True)
class ExportWork:
    """A claimed chunk of an export.

    Attributes:
        job_id: the export job.
        task: what the chunk does.
        plan: of the job.
        shown: images of the contact sheet.
        ended: chunks of the job that have ended.
    """

    job_id: int
    task: ArchiveTask | PublishTask
    plan: Plan
    shown: Sequence[ExportEntry]
    ended: Sequence[EndedChunk]


def prepare(runtime: Runtime, session: Session, claim: Claim) -> ExportWork:
    """Read the plan of the job, the images of the contact sheet, and the results of the job's ended chunks."""
    del runtime
    job_id = claim.job.id
    request = exports.load(session, job_id)
    if request is None:
        raise UnknownJobError(claim.job.table.name, job_id)
    task = task_of(claim.payload)
    first, last = (task.first, task.last) if isinstance(task, ArchiveTask) else (0, MAX_INT4)
    return ExportWork(
        job_id=job_id,
        task=task,
        plan=Plan.of(request, exports.labels(session, job_id), exports.list_columns(session, job_id)),
        shown=exports.entries(session, job_id, first=first, last=last, sample=report.SHEET_SIZE),
        ended=chunk_results.ended(session, claim.job),
    )


async def work(runtime: Runtime, work: ExportWork, limits: JobLimits) -> ExportChunkResult:
    """Write an archive, or publish all of them.

    An archive that cannot be written before `limits.chunk_deadline` is written by several attempts; see `prepared.py`.
    """
    if isinstance(work.task, ArchiveTask):
        return await _write_archive(runtime, work, work.task, limits)
    return await _publish(runtime, work)


def write(session: Session, work: ExportWork, result: ExportChunkResult) -> Report:
    """Return the report of the chunk. An export has no rows besides the chunk's result."""
    del session, work
    if isinstance(result, Unfinished):
        return Report({}, rest=Rest(result.task.to_json(), progressed=result.progressed))
    if not isinstance(result, ArchiveResult):
        return Report(result.to_json(), {"exported_images": 0})
    summary = result.summary
    return Report(
        result.to_json(),
        {"exported_images": summary.images},
        tally=Tally(
            outcomes={"exported": summary.images, "skipped": summary.skipped.total()},
            rejected=summary.skipped,
            bytes=result.size,
        ),
    )


async def _write_archive(
    runtime: Runtime, work: ExportWork, task: ArchiveTask, limits: JobLimits
) -> ArchiveResult | Unfinished:
    """Write an archive, unless an earlier attempt has written it and only its result was lost."""
    path = key(work.job_id, task.name)
    note = f"{path}.json"
    if (earlier := await _written_before(runtime, path, note)) is not None:
        return earlier
    if task.segments is not None and task.prepared <= task.last:
        return await _prepare(runtime, work, task, limits)
    segments = [prepared.key(path, first) for first in task.segments or ()]
    seconds = limits.chunk_deadline.total_seconds() * _SHARE
    try:
        # Without segments the deadline is that of the attempt; with them, nothing is left but to write.
        async with asyncio.timeout(seconds if task.segments is None else None) as limit:
            result = await _write(runtime, work, task, segments)
    except TimeoutError:
        if not limit.expired():
            raise
        log.info("the images of an archive are prepared first: it takes too long", archive=task.name)
        return Unfinished(replace(task, segments=(), prepared=task.first), progressed=True)
    except FileMissingError:
        if not segments:
            raise
        # The files of the failed export were deleted before it was tried again.
        return Unfinished(replace(task, segments=(), prepared=task.first), progressed=False)
    await runtime.storage.put(note, json.dumps(result.to_json()).encode())
    await runtime.storage.delete(segments)
    return result


async def _write(runtime: Runtime, work: ExportWork, task: ArchiveTask, segments: Sequence[str]) -> ArchiveResult:
    images = (
        ImageReader(runtime, work.plan, parts=task.parts)
        if task.segments is None
        else PreparedImages(runtime.storage, segments)
    )
    async with (
        contextlib.aclosing(prefetch(_pages(runtime, work, task), limit=_PREFETCHED)) as pages,
        runtime.storage.writing(key(work.job_id, task.name)) as sink,
    ):
        part = ArchivePart(number=task.part, total=task.parts, pages=pages, shown=work.shown)
        written = await archive_writer.write(runtime, sink, work.plan, part, images)
    return ArchiveResult(
        name=task.name,
        size=written.size,
        sha256=written.sha256,
        table=written.table,
        summary=written.summary,
        left_out=written.left_out,
    )


async def _prepare(runtime: Runtime, work: ExportWork, task: ArchiveTask, limits: JobLimits) -> Unfinished:
    """Prepare as many images as there is time for, and store them."""
    path = key(work.job_id, task.name)
    end = time.monotonic() + limits.chunk_budget.total_seconds()
    segments, first = list(task.segments or ()), task.prepared
    images: list[tuple[int, ImageFile | str]] = []
    size = 0

    async def store() -> None:
        nonlocal first, images, size
        await prepared.store(runtime.storage, prepared.key(path, first), images)
        segments.append(first)
        first, images, size = images[-1][0] + 1, [], 0

    left = replace(task, first=task.prepared)
    try:
        async with (
            asyncio.timeout(limits.chunk_deadline.total_seconds() * _SHARE) as limit,
            contextlib.aclosing(prefetch(_pages(runtime, work, left), limit=_PREFETCHED)) as pages,
            contextlib.aclosing(
                ImageReader(runtime, work.plan, parts=task.parts, batch=_SLOW_BATCH).read(pages)
            ) as found,
        ):
            async for entry, file in found:
                images.append((entry.seq, file))
                size += 0 if isinstance(file, str) else len(file.body)
                if time.monotonic() > end:
                    break
                if size >= prepared.FULL_SEGMENT:
                    await store()
            else:
                if images:
                    await store()
                first = task.last + 1
    except TimeoutError:
        if not limit.expired():
            raise
    if images:
        await store()
    rest = replace(task, segments=tuple(segments), prepared=first)
    return Unfinished(rest, progressed=first > task.prepared)


async def _pages(
    runtime: Runtime, work: ExportWork, task: ArchiveTask
) -> AsyncIterator[Coroutine[Any, Any, Sequence[ExportEntry]]]:
    """Yield coroutines that read the images of an archive, each a page in a transaction of its own."""
    size = max(1, min(_PAGE, _PAGE_BYTES // max(1, work.plan.columns.row_bytes)))
    for first in range(task.first, task.last + 1, size):
        last = min(first + size - 1, task.last)
        read = functools.partial(exports.entries, job_id=work.job_id, first=first, last=last)
        yield asyncio.to_thread(transact, runtime.sessions, read)


async def _written_before(runtime: Runtime, path: str, note: str) -> ArchiveResult | None:
    """Return the result of an earlier attempt if its note, which is written last, and its archive exist."""
    try:
        result = ArchiveResult.from_json(json.loads(await runtime.storage.get(note, max_bytes=_MAX_NOTE_BYTES)))
    except (FileMissingError, RejectedError):
        return None
    except (ValueError, RecursionError, PermanentError) as error:
        log.warning("the note of an earlier attempt is invalid: the archive is written again", reason=str(error)[:200])
        return None
    # The name of a note that another program has written would be that of a file of the export. An archive without
    # images may be one of an attempt before a retry, which looks for them again.
    if not path.endswith(f"/{result.name}") or not result.summary.images:
        return None
    return result if await runtime.storage.size(path) == result.size else None


async def _publish(runtime: Runtime, work: ExportWork) -> Publication:
    archives = archives_of(work.ended)
    # The notes are for attempts after a lost result. The ledger has all results by now.
    await runtime.storage.delete([f"{key(work.job_id, archive.name)}.json" for archive in archives])
    return await publisher.publish(runtime, work.job_id, work.plan, archives, work.shown)

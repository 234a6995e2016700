"""Running one chunk of an export: write an archive, or publish all of them."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import Claim, EndedChunk
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.export import archive_writer, publisher, report
from pixcrawler_worker.export.archive_writer import ArchivePart
from pixcrawler_worker.export.payloads import ArchiveResult, ArchiveTask, Publication, PublishTask, archives_of, task_of
from pixcrawler_worker.export.plan import Plan, key
from pixcrawler_worker.export.prefetch import prefetch
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.failures import FileMissingError

#: Images in a page that is read from the database, and pages that are read at a time, while others are written.
_PAGE, _PREFETCHED = 2000, 2

ExportChunkResult: TypeAlias = ArchiveResult | Publication


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
        plan=Plan.of(request, exports.labels(session, job_id)),
        shown=exports.entries(session, job_id, first=first, last=last, sample=report.SHEET_SIZE),
        ended=chunks.ended(session, claim.job),
    )


async def work(runtime: Runtime, work: ExportWork, limits: JobLimits) -> ExportChunkResult:
    """Write an archive, or publish all of them."""
    del limits  # the size of an archive bounds its time
    if isinstance(work.task, ArchiveTask):
        return await _write_archive(runtime, work, work.task)
    return await _publish(runtime, work)


def write(session: Session, work: ExportWork, result: ExportChunkResult) -> Report:
    """Return the report of the chunk. An export has no rows besides the chunk's result."""
    del session, work
    images = result.summary.images if isinstance(result, ArchiveResult) else 0
    return Report(result.to_json(), {"exported_images": images})


async def _write_archive(runtime: Runtime, work: ExportWork, task: ArchiveTask) -> ArchiveResult:
    """Write an archive, unless an earlier attempt has written it and only its result was lost."""
    path = key(work.job_id, task.name)
    note = f"{path}.json"
    if (earlier := await _written_before(runtime, path, note)) is not None:
        return earlier
    async with (
        contextlib.aclosing(prefetch(_pages(runtime, work.job_id, task), limit=_PREFETCHED)) as pages,
        runtime.storage.writing(path) as sink,
    ):
        part = ArchivePart(number=task.part, total=task.parts, pages=pages, shown=work.shown)
        written = await archive_writer.write(runtime, sink, work.plan, part)
    result = ArchiveResult(
        name=task.name, size=written.size, sha256=written.sha256, table=written.table, summary=written.summary
    )
    await runtime.storage.put(note, json.dumps(result.to_json()).encode())
    return result


async def _pages(
    runtime: Runtime, job_id: int, task: ArchiveTask
) -> AsyncIterator[Coroutine[Any, Any, Sequence[ExportEntry]]]:
    """Yield coroutines that read the images of an archive, each a page in a transaction of its own."""
    for first in range(task.first, task.last + 1, _PAGE):
        last = min(first + _PAGE - 1, task.last)
        read = functools.partial(exports.entries, job_id=job_id, first=first, last=last)
        yield asyncio.to_thread(transact, runtime.sessions, read)


async def _written_before(runtime: Runtime, path: str, note: str) -> ArchiveResult | None:
    """Return the result of an earlier attempt if its note, which is written last, and its archive exist."""
    try:
        result = ArchiveResult.from_json(json.loads(await runtime.storage.get(note)))
    except FileMissingError:
        return None
    return result if await runtime.storage.size(path) == result.size else None


async def _publish(runtime: Runtime, work: ExportWork) -> Publication:
    archives = archives_of(work.ended)
    # The notes are for attempts after a lost result. The ledger has all results by now.
    await runtime.storage.delete([f"{key(work.job_id, archive.name)}.json" for archive in archives])
    return await publisher.publish(runtime, work.job_id, work.plan, archives, work.shown)

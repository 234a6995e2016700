"""Running one chunk of an export: write an archive, or publish all of them."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.exports import Item
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import Claim, EndedChunk
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.export import plan, planner, publishing, report, writing
from pixcrawler_worker.export.ahead import ahead
from pixcrawler_worker.export.plan import Plan, key
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import FileMissingError

#: Behind the last place of any export.
_LAST = 2**31 - 1
#: Images that are read from the database at a time.
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class ExportWork:
    """A claimed chunk with its job's plan, some of its images, and the archives that there are already."""

    claim: Claim
    plan: Plan
    shown: Sequence[Item]
    ended: Sequence[EndedChunk]

    @property
    def first(self) -> int:
        """Place of its first image in the export."""
        return int(self.claim.payload.get("first", 0))

    @property
    def last(self) -> int:
        """Place of its last image."""
        return int(self.claim.payload.get("last", _LAST))


def prepare(runtime: Runtime, session: Session, claim: Claim) -> ExportWork:
    """Read the plan of the job, some of the chunk's images, and what its ended chunks have brought."""
    del runtime
    request = exports.load(session, claim.job.id)
    if request is None:
        raise UnknownJobError(claim.job.table.name, claim.job.id)
    whole = plan.read(request, exports.labels(session, claim.job.id))
    work = ExportWork(claim, whole, (), chunks.ended(session, claim.job))
    shown = exports.items(session, claim.job.id, first=work.first, last=work.last, most=report.SHEET)
    return replace(work, shown=shown)


async def work(runtime: Runtime, work: ExportWork, limits: Limits) -> Mapping[str, Any]:
    """Write an archive, or publish all of them."""
    del limits  # the size of an archive bounds its time
    return await (_publish(runtime, work) if planner.publishes(work.claim.payload) else _part(runtime, work))


def write(session: Session, work: ExportWork, result: Mapping[str, Any]) -> Report:
    """Write nothing else: what an archive became is the chunk's result."""
    del session, work
    return Report(result, {"exported_images": result.get("images", 0)})


async def _part(runtime: Runtime, work: ExportWork) -> Mapping[str, Any]:
    """Write an archive, unless an earlier attempt did so and only its answer was lost."""
    payload = work.claim.payload
    where = key(work.claim.job.id, payload["name"])
    note = f"{where}.json"
    if (done := await _done(runtime, where, note)) is not None:
        return done
    async with (
        contextlib.aclosing(ahead(_pages(runtime, work), most=2)) as images,
        runtime.storage.writing(where) as sink,
    ):
        part = writing.Part(number=payload["part"], of=payload["parts"], pages=images, shown=work.shown)
        written = await writing.write(runtime, sink, work.plan, part)
    told = {"name": payload["name"], **written.as_json()}
    await runtime.storage.put(note, json.dumps(told).encode())
    return told


async def _pages(runtime: Runtime, work: ExportWork) -> AsyncIterator[Coroutine[Any, Any, Sequence[Item]]]:
    """Yield the reading of an archive's images, a page at a time, each in a transaction of its own."""
    for first in range(work.first, work.last + 1, _PAGE):
        last = min(first + _PAGE - 1, work.last)
        read = functools.partial(exports.items, job_id=work.claim.job.id, first=first, last=last)
        yield asyncio.to_thread(transact, runtime.sessions, read)


async def _done(runtime: Runtime, where: str, note: str) -> Mapping[str, Any] | None:
    """Return what stands in the note that is written behind a finished archive, if both are there."""
    try:
        told: dict[str, Any] = json.loads(await runtime.storage.get(note))
    except FileMissingError:
        return None
    return told if await runtime.storage.size(where) == told["size"] else None


async def _publish(runtime: Runtime, work: ExportWork) -> Mapping[str, Any]:
    job_id = work.claim.job.id
    parts = [part.result for part in work.ended if not planner.publishes(part.payload) and part.result.get("images")]
    # The notes were for attempts that come after a lost answer: the ledger has the answers by now.
    await runtime.storage.delete([f"{key(job_id, part['name'])}.json" for part in parts])
    return {"publish": await publishing.publish(runtime, job_id, work.plan, parts, work.shown)}

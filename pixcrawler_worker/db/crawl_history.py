"""The sums of what the chunks of a crawl job have brought, kept from round to round.

A job may have any number of chunks, a round has no more than `MAX_CHUNKS`. When a round is over, its chunks are added
to the sums in `crawl_plans.history`, in the transaction that plans the next one or ends the job, under the lock of the
job: the end of a chunk writes nothing more. The sums are those of the chunks before `before`, which only a retry
changes.

They are valid while rounds go on counting from `round`: a retry begins at 0 again. So does that of the version before
this one, which leaves the sums behind.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, literal, null, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from pixcrawler_worker.db.private_models import Chunk, CrawlPlan
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.crawl_history import CrawlHistory
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.domain.stored_json import Fields
from pixcrawler_worker.errors import PermanentError

#: Chunks that are read at a time.
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is kept.

    Attributes:
        before: the sums are those of the chunks with a smaller `seq`.
        reasons: rejection reasons with counts.
        rest: everything else, as it is kept.
    """

    before: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    rest: Any = None


def sum_up(session: Session, job_id: int, *, round_: int) -> CrawlHistory:
    """Add the chunks of the last round to the kept sums, and return the history of the job.

    The caller holds the job's lock, and all of its chunks have ended.

    Args:
        session: of the transaction.
        job_id: the crawl job, whose options are recorded.
        round_: number of the rounds so far.

    Raises:
        PermanentError: when a result is invalid. The kept sums stay as they are.
    """
    kept = _kept(session, job_id, with_rest=True)
    try:
        history = CrawlHistory.from_json(kept.rest)
    except PermanentError:
        kept, history = _Sums(), CrawlHistory()
    for result in _results(session, job_id, since=kept.before):
        history.add(result)
    last = session.scalar(select(func.max(Chunk.seq)).where(Chunk.crawl_job_id == job_id))
    if last is None or last < kept.before:
        return history
    sums = {
        **history.to_json(),
        "round": round_,
        "before": last + 1,
        "reasons": dict(_with_newer(session, job_id, kept)),
    }
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(history=sums))
    return history


def reasons(session: Session, job_id: int) -> dict[str, int]:
    """Return why candidates of a job did not become images, with counts, the most frequent first."""
    total = _with_newer(session, job_id, _kept(session, job_id))
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def forget(session: Session, job_id: int) -> None:
    """Drop the kept sums of a job whose chunks change; its chunks are read instead."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(history=null()))


def _kept(session: Session, job_id: int, *, with_rest: bool = False) -> _Sums:
    """Return the kept sums of a job; none when there are none, or they are not valid any more."""
    kept = CrawlPlan.history
    names = ("round", "before", "reasons")
    row = session.execute(
        select(CrawlPlan.round, *(kept[name] for name in names), *([kept] if with_rest else [])).where(
            CrawlPlan.crawl_job_id == job_id
        )
    ).one_or_none()
    if row is None:
        return _Sums()
    now, *found = row
    fields = Fields(dict(zip(names, found, strict=False)), "history")
    try:
        sums = _Sums(fields.integer("before"), fields.counts("reasons"), found[-1] if with_rest else None)
        return sums if fields.integer("round") <= now else _Sums()
    except PermanentError:
        return _Sums()


def _with_newer(session: Session, job_id: int, kept: _Sums) -> Counter[str]:
    """Return the reasons with those of the chunks that are not in the sums. Equal counts of chunks are read once."""
    of_chunk = Chunk.result["reasons"]
    rows = session.execute(
        select(of_chunk, func.count())
        .where(Chunk.crawl_job_id == job_id, Chunk.seq >= kept.before, of_chunk != literal({}, JSONB))
        .group_by(of_chunk)
    )
    total = Counter(kept.reasons)
    for counts, chunks in rows:
        total.update({reason: count * chunks for reason, count in stored_json.counts(counts).items()})
    return total


def _results(session: Session, job_id: int, *, since: int) -> Iterator[CrawlChunkResult]:
    """Yield the results of the ended chunks of a job, in their order, from one of them on."""
    query = (
        select(Chunk.seq, Chunk.payload, Chunk.state, Chunk.result)
        .where(Chunk.crawl_job_id == job_id, Chunk.state.in_([ChunkState.COMPLETED, ChunkState.FAILED]))
        .order_by(Chunk.seq)
        .limit(_PAGE)
    )
    while rows := session.execute(query.where(Chunk.seq >= since)).all():
        for row in rows:
            chunk = CrawlChunk.from_json(row.payload)
            if row.state == ChunkState.FAILED:
                yield _failed(chunk, row.result)
            else:
                yield CrawlChunkResult.from_json(chunk, row.result)
        since = rows[-1].seq + 1


def _failed(chunk: CrawlChunk, so_far: Any) -> CrawlChunkResult:  # noqa: ANN401 - a column of JSON
    """Return the result of a chunk that failed, with the parts of it that were done before."""
    if so_far is None:
        return CrawlChunkResult(chunk=chunk, failed=True)
    return replace(CrawlChunkResult.from_json(chunk, so_far), failed=True)

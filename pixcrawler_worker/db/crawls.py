"""Crawl jobs: their table, what they were requested with, and what their chunks have brought so far."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, exists, func, join, null, or_, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from pixcrawler_worker.db import validations
from pixcrawler_worker.db.ledger import jobs, looks
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.models import CrawlJob, Image, Profile, Project
from pixcrawler_worker.db.private_models import (
    Chunk,
    CrawlCandidate,
    CrawlPlan,
    CrawlUrls,
    ImageFact,
    Recount,
    ValidationResultRow,
)
from pixcrawler_worker.db.session import driver, execute_prepared
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.lifecycle import ENDED, ChunkState
from pixcrawler_worker.domain.list_rows import NOTHING, ListPage, ListRow
from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.domain.postgres_types import storable_json
from pixcrawler_worker.domain.stored_json import Fields
from pixcrawler_worker.errors import PermanentError

_NOW = func.clock_timestamp()
#: Jobs that one clean-up looks at.
_BATCH = 200
#: Pages of a URL list that are read at a time.
_PAGES = 50
#: Chunks before another one that say what its hosts are like.
_NEIGHBORS = 8


CRAWL_JOBS = JobTable(
    name="crawl",
    model=CrawlJob,
    chunk_key=Chunk.crawl_job_id,
    owners=join(Profile, Project).join(CrawlJob),
    plan_key=CrawlPlan.crawl_job_id,
    requested_at=CrawlPlan.requested_at,
    chunk_task=Task.CRAWL_CHUNK,
    queue=QUEUES[Task.CRAWL_CHUNK],
    limits={"valid_images": "max_images"},
    # Of an array, `?` would ask for a keyword.
    carries_options=and_(func.jsonb_typeof(CrawlJob.keywords) == "object", CrawlJob.keywords.has_key("options")),
)


@dataclass(frozen=True, slots=True)
class WaitingCandidates:
    """Candidates that wait for a host which is left alone, and until when."""

    host: str
    candidates: int
    until: datetime


@dataclass(frozen=True, slots=True)
class CrawlRequest:
    """A crawl job as its row and its recorded options have it."""

    keywords: Any
    max_images: int
    total_images: int
    valid_images: int
    options: dict[str, Any]
    round: int
    url_pages: int


def record_request(session: Session, job_id: int, *, options: Mapping[str, Any], pages: Iterable[ListPage]) -> None:
    """Record what a job is to be started with, in place of what was recorded before.

    The options have everything but the list, which is stored in pages so that a chunk reads no more than its own.
    """
    values = {"options": dict(options), "as_given": False}
    recorded = postgresql.insert(CrawlPlan).values(crawl_job_id=job_id, **values)
    session.execute(recorded.on_conflict_do_update(index_elements=["crawl_job_id"], set_=values))
    session.execute(delete(CrawlUrls).where(CrawlUrls.crawl_job_id == job_id))
    lines = (_copied(job_id, at, page) for at, page in enumerate(pages))
    # One statement for each part: a long list takes longer than a statement may.
    while part := "".join(itertools.islice(lines, _COPIED)):
        with driver(session).cursor() as cursor, cursor.copy(_COPY_URLS) as copy:
            copy.write(part)


_COPY_URLS = "COPY pixcrawler.crawl_urls (crawl_job_id, page, urls, details) FROM STDIN"
#: Pages of a URL list that one statement writes.
_COPIED = 100


def _copied(job_id: int, at: int, page: ListPage) -> str:
    """Return a page as a line of COPY's text format."""
    has_details = page.details.count(NOTHING) < len(page.details)
    details = _escaped(_array(page.details)) if has_details else r"\N"
    return f"{job_id}\t{at}\t{_escaped(_array(page.urls))}\t{details}\n"


def _array(elements: Iterable[str]) -> str:
    quoted = (element.replace("\\", "\\\\").replace('"', '\\"') for element in elements)
    return '{"' + '","'.join(quoted) + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


def is_recorded(session: Session, job_id: int) -> bool:
    """Return whether the job's options are recorded already."""
    return session.scalar(select(CrawlPlan.crawl_job_id).where(CrawlPlan.crawl_job_id == job_id)) is not None


@dataclass(frozen=True, slots=True)
class RecordedOptions:
    """The options of a crawl job as they are recorded.

    Attributes:
        options: all but the URLs; all of them, and of any type, where an API has given them and none was checked yet.
        as_given: whether that is so.
    """

    options: Any
    as_given: bool


def recorded_options(session: Session, job_id: int) -> RecordedOptions | None:
    """Return the recorded options of a job; None when nothing is recorded."""
    query = select(CrawlPlan.options, CrawlPlan.as_given).where(CrawlPlan.crawl_job_id == job_id)
    row = session.execute(query).one_or_none()
    return None if row is None else RecordedOptions(row.options, row.as_given)


def keywords(session: Session, job_id: int) -> Any:  # noqa: ANN401 - a column of JSON
    """Return the keywords in a job's row; None when there is no such job."""
    return session.scalar(select(CrawlJob.keywords).where(CrawlJob.id == job_id))


def record_overtaken(session: Session, job_id: int, options: object) -> None:
    """Record the options of a message for a job that was started without them, in place of what it was started with.

    They are as given, and the job has chunks: together, that says that the job must not run any more.
    """
    values = {"options": storable_json(options), "as_given": True}
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(values))


def load(session: Session, job_id: int) -> CrawlRequest:
    """Return the request of a job whose options are recorded."""
    pages = select(func.count()).where(CrawlUrls.crawl_job_id == job_id).scalar_subquery().label("url_pages")
    row = session.execute(
        select(
            CrawlJob.keywords,
            CrawlJob.max_images,
            CrawlJob.total_images,
            CrawlJob.valid_images,
            CrawlPlan.options,
            CrawlPlan.round,
            pages,
        )
        .join(CrawlPlan, CrawlPlan.crawl_job_id == CrawlJob.id)
        .where(CrawlJob.id == job_id)
    ).one()
    return CrawlRequest(
        keywords=row.keywords,
        max_images=row.max_images,
        total_images=row.total_images,
        valid_images=row.valid_images,
        options=row.options,
        round=row.round,
        url_pages=row.url_pages,
    )


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """What a chunk needs of its job.

    Attributes:
        max_images: that the job may have.
        total_images: candidates so far.
        valid_images: that it has.
        options: that are recorded.
        age: for how long the job has been running; zero for times that were written by hand.
        has_urls: whether the job has a URL list.
        rows: one page of it; empty beyond its end.
        is_after_slow: whether one of the few chunks before this one made way for others because its hosts were slow.
    """

    max_images: int
    total_images: int
    valid_images: int
    options: dict[str, Any]
    age: timedelta
    has_urls: bool
    rows: tuple[ListRow, ...]
    is_after_slow: bool


_CHUNK_REQUEST = """
SELECT job.max_images, job.total_images, job.valid_images, plan.options,
    CASE WHEN isfinite(job.started_at)
        THEN greatest(0, least(extract(epoch FROM clock_timestamp() - job.started_at), %(max_age)s))
        ELSE 0
    END::float8,
    EXISTS (SELECT FROM pixcrawler.crawl_urls WHERE crawl_job_id = job.id),
    page.urls, page.details,
    EXISTS (
        SELECT FROM (
            SELECT payload FROM pixcrawler.chunks
            WHERE crawl_job_id = job.id AND seq < (SELECT seq FROM pixcrawler.chunks WHERE id = %(chunk)s)
            ORDER BY seq DESC LIMIT %(neighbors)s
        ) AS before WHERE payload ? 'yields'
    )
FROM crawl_jobs AS job JOIN pixcrawler.crawl_plans AS plan ON plan.crawl_job_id = job.id
LEFT JOIN pixcrawler.crawl_urls AS page ON page.crawl_job_id = job.id AND page.page = %(page)s
WHERE job.id = %(job)s
"""


def load_for_chunk(session: Session, job_id: int, chunk_id: int, *, page: int | None) -> ChunkRequest:
    """Return what a chunk needs of its job, with one page of the URL list unless `page` is None.

    It takes as long for a large job as for a small one.
    """
    values = {
        "job": job_id,
        "chunk": chunk_id,
        "page": -1 if page is None else page,
        "neighbors": _NEIGHBORS,
        "max_age": jobs.MAX_AGE.total_seconds(),
    }
    row = execute_prepared(session, _CHUNK_REQUEST, values).fetchone()
    if row is None:
        # As the join of `load`.
        raise NoResultFound(f"crawl job {job_id} has no recorded options")
    max_images, total_images, valid_images, options, seconds, has_urls, urls, details, is_after_slow = row
    return ChunkRequest(
        max_images=max_images,
        total_images=total_images,
        valid_images=valid_images,
        options=options,
        age=timedelta(seconds=seconds),
        has_urls=has_urls,
        rows=_rows(urls or (), details),
        is_after_slow=is_after_slow,
    )


def room(session: Session, job_id: int) -> int:
    """Return how many images a job may still get."""
    left = session.scalar(select(CrawlJob.max_images - CrawlJob.valid_images).where(CrawlJob.id == job_id))
    return max(0, left or 0)


def next_round(session: Session, job_id: int) -> None:
    """Count one more round."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(round=CrawlPlan.round + 1))


def valid_by_search(session: Session, job_id: int) -> dict[tuple[str, str], int]:
    """Return how many images each search has brought that the job's effective validation did not find invalid.

    By query and source. The caller holds the job's lock.
    """
    found = (
        select(ImageFact.query, ImageFact.source, func.count())
        .join(Image, Image.id == ImageFact.image_id)
        .where(Image.crawl_job_id == job_id)
        .group_by(ImageFact.query, ImageFact.source)
    )
    if (validation_id := validations.effective_validation(session, job_id)) is not None:
        of_image = and_(
            ValidationResultRow.validation_job_id == validation_id, ValidationResultRow.image_id == ImageFact.image_id
        )
        found = found.where(~exists().where(of_image, ~ValidationResultRow.valid))
    return {(query, source): count for query, source, count in session.execute(found)}


def has_retriable(session: Session, ref: JobRef) -> bool:
    """Return whether a job is short of images and has candidates that were rejected for now.

    Those that an earlier retry did not need are in no result any more, but among the leftovers.
    """
    short = exists().where(CrawlJob.id == ref.id, CrawlJob.valid_images < CrawlJob.max_images)
    left = exists().where(CrawlCandidate.crawl_job_id == ref.id, CrawlCandidate.retriable)
    found = exists().where(Chunk.crawl_job_id == ref.id, Chunk.result.has_key("retriable"))
    return bool(session.scalar(select(and_(short, or_(left, found)))))


def has_rejected_for_now(session: Session, job_id: int, page: CrawlChunk) -> bool:
    """Return whether chunks of a result page have rejected candidates for now since the job was started or retried."""
    of_page = {"source": page.source, "query": page.query, "label": page.label, "page": page.page}
    of_job = Chunk.crawl_job_id == job_id
    found = exists().where(of_job, Chunk.payload.contains(of_page), Chunk.result.has_key("retriable"))
    return bool(session.scalar(select(found)))


def reopened(session: Session, ref: JobRef) -> None:
    """Note that the job runs again: its rounds count from 0, and what was rejected for now is left over.

    Files of it may be written, so that its storage has to be cleaned up again. The results of its chunks change, so
    that they have to be summed up again.
    """
    again = {"cleaned_at": None, "round": 0, "history": null()}
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == ref.id).values(again))
    rows = session.execute(
        select(Chunk.id, Chunk.state, Chunk.payload, Chunk.result)
        .where(Chunk.crawl_job_id == ref.id)
        .order_by(Chunk.seq)
    )
    pages: dict[tuple[str, str, str, int], list[tuple[int, str, CrawlChunkResult]]] = {}
    for row in rows.all():
        with contextlib.suppress(PermanentError):  # another version wrote it, or a person: it stays as it is
            chunk = CrawlChunk.from_json(row.payload)
            # One that runs again may have no result: it is the last of its page all the same.
            result = (
                CrawlChunkResult(chunk=chunk) if row.result is None else CrawlChunkResult.from_json(chunk, row.result)
            )
            page = (chunk.source, chunk.query, chunk.label, chunk.page)
            pages.setdefault(page, []).append((row.id, row.state, result))
    for results in pages.values():
        _reopen_page(session, results)


def _reopen_page(session: Session, results: Sequence[tuple[int, str, CrawlChunkResult]]) -> None:
    """Give what was rejected for now to the last chunk of a page: its leftovers are what the next round takes."""
    retriable = {position for _, _, result in results for position in result.retriable}
    if not retriable:
        return
    for chunk_id, _, result in results:
        if result.retriable:
            session.execute(update(Chunk).where(Chunk.id == chunk_id).values(result=result.reopened().to_json()))
    chunk_id, state, result = results[-1]
    last = result.reopened()
    if state == ChunkState.COMPLETED:
        left = tuple(sorted({*last.left, *retriable}))
        session.execute(update(Chunk).where(Chunk.id == chunk_id).values(result=replace(last, left=left).to_json()))
    elif last.chunk.only is not None:
        only = tuple(sorted({*last.chunk.only, *retriable}))
        session.execute(
            update(Chunk).where(Chunk.id == chunk_id).values(payload=replace(last.chunk, only=only).to_json())
        )


def recount(session: Session, ref: JobRef) -> dict[str, int]:
    """Return the counters of the job's row that follow from its images and their validation."""
    return {"valid_images": validations.valid_images(session, ref.id)}


def marked(session: Session, skip: Collection[int] = ()) -> list[int]:
    """Return jobs not in `skip` that have to be recounted: rows that their counters follow from were deleted."""
    if found := looks.ids(session, _marked, skip=skip):
        gone = ~exists().where(CrawlJob.id == Recount.crawl_job_id)
        session.execute(delete(Recount).where(gone).execution_options(synchronize_session=False))
        found = looks.ids(session, _marked, skip=skip)
    return found


def _marked() -> Select[int]:
    query = select(Recount.crawl_job_id).where(looks.not_skipped(Recount.crawl_job_id)).distinct()
    return query.order_by(Recount.crawl_job_id).limit(_BATCH)


def _rows(urls: Sequence[str], details: Sequence[object] | None) -> tuple[ListRow, ...]:
    return tuple(map(ListRow.of, urls, itertools.chain(details or (), itertools.repeat(None))))


def has_list(session: Session, job_id: int) -> bool:
    """Return whether the job has a URL list."""
    return bool(session.scalar(select(exists().where(CrawlUrls.crawl_job_id == job_id))))


def listed(session: Session, job_id: int) -> Iterator[ListRow]:
    """Yield the rows of the job's URL list. A few pages of it are in memory."""
    query = (
        select(CrawlUrls.page, CrawlUrls.urls, CrawlUrls.details)
        .where(CrawlUrls.crawl_job_id == job_id)
        .order_by(CrawlUrls.page)
        .limit(_PAGES)
    )
    last = -1
    while pages := session.execute(query.where(CrawlUrls.page > last)).all():
        for page in pages:
            yield from _rows(page.urls, page.details)
        last = pages[-1].page


def waiting(session: Session, job_id: int) -> list[WaitingCandidates]:
    """Return the candidates of the job that wait for hosts which are left alone, by host."""
    rows = session.execute(
        select(Chunk.payload["waiting"], Chunk.available_at).where(
            Chunk.crawl_job_id == job_id,
            Chunk.state == ChunkState.QUEUED,
            Chunk.available_at > _NOW,
            Chunk.payload.has_key("waiting"),
        )
    )
    found: dict[str, WaitingCandidates] = {}
    for hosts, until in rows:
        for host, count in stored_json.counts(hosts).items():
            known = found.get(host)
            found[host] = WaitingCandidates(
                host,
                count + (known.candidates if known else 0),
                max(until, known.until) if known else until,
            )
    return sorted(found.values(), key=lambda one: (-one.candidates, one.host))


def past_grace_period(session: Session, *, grace_period: timedelta) -> list[int]:
    """Return jobs that ended at least `grace_period` ago and whose storage was not cleaned up since."""
    query = (
        select(CrawlJob.id)
        .join(CrawlPlan, CrawlPlan.crawl_job_id == CrawlJob.id)
        .where(CrawlJob.status.in_(ENDED), CrawlJob.completed_at <= _NOW - grace_period, CrawlPlan.cleaned_at.is_(None))
        .order_by(CrawlJob.id)
        .limit(_BATCH)
    )
    return list(session.scalars(query))


def cleaned_up(session: Session, job_id: int) -> None:
    """Note that the job's storage holds only what rows name."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(cleaned_at=_NOW))


def all_ids(session: Session) -> list[int]:
    """Return all crawl jobs, by their ids."""
    return list(session.scalars(select(CrawlJob.id).order_by(CrawlJob.id)))


@dataclass(frozen=True, slots=True)
class CandidateCounts:
    """What became of a job's candidates. Each of them is in exactly one of the counts.

    Attributes:
        stored: images that were stored, including those that were deleted later.
        reasons: rejection reasons with counts, the most frequent first.
        left: candidates that are left over: not needed, or not processed.
    """

    stored: int
    reasons: Mapping[str, int]
    left: int


def candidate_counts(session: Session, job_id: int, *, list_source: str) -> CandidateCounts:
    """Return what became of a job's candidates, by the results of its chunks.

    Args:
        session: of the transaction.
        job_id: the row in `crawl_jobs`.
        list_source: name of the source that takes the job's URL list.
    """
    rows = session.execute(
        select(Chunk.state, Chunk.payload, Chunk.result).where(Chunk.crawl_job_id == job_id).order_by(Chunk.seq)
    )
    stored, reasons = 0, Counter[str]()
    left_before: int | None = None
    pages: dict[tuple[str, str, str, int], int | None] = {}
    for row in rows:
        stored += stored_json.counts(row.result).get("stored", 0)
        reasons.update(stored_json.counts(row.result.get("reasons") if isinstance(row.result, dict) else None))
        if isinstance(row.result, dict) and jobs.PRUNED in row.result:
            left_before = stored_json.counts(row.result[jobs.PRUNED]).get("left")
        with contextlib.suppress(PermanentError):  # another version wrote it, or a person
            chunk = CrawlChunk.from_json(row.payload)
            has_ended = row.state == ChunkState.COMPLETED
            left = Fields(row.result, "result").integers("left") if has_ended else chunk.only
            # The newest chunk of a page has what is left of it. What a page has is unknown until it was searched.
            pages[chunk.source, chunk.query, chunk.label, chunk.page] = None if left is None else len(left)
    if left_before is not None:
        # The other chunks are deleted.
        return CandidateCounts(stored, dict(reasons.most_common()), left_before)
    known = {page for (source, _, _, page), left in pages.items() if source == list_source and left is not None}
    lengths = session.execute(
        select(CrawlUrls.page, func.cardinality(CrawlUrls.urls)).where(CrawlUrls.crawl_job_id == job_id)
    )
    unread = sum(length for page, length in lengths if page not in known)
    return CandidateCounts(stored, dict(reasons.most_common()), sum(filter(None, pages.values())) + unread)

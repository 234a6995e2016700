"""What a crawl job was started with, and what its slices have brought so far."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import Chunk, CrawlJob, CrawlPlan, CrawlUrls
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.domain.planning import Outcome, Slice


@dataclass(frozen=True, slots=True)
class Plan:
    """A crawl job as its planner sees it."""

    keywords: Any
    max_images: int
    valid_images: int
    options: dict[str, Any]
    round: int
    url_pages: int


def keep(session: Session, job_id: int, *, options: Mapping[str, Any], urls: Sequence[str], page_size: int) -> None:
    """Keep what a job is to be started with, in place of what was kept before.

    The options say everything but the URLs, which are kept in pages so that a chunk reads no more than its own.
    """
    kept = upsert(CrawlPlan).values(crawl_job_id=job_id, options=dict(options))
    session.execute(
        kept.on_conflict_do_update(index_elements=["crawl_job_id"], set_={"options": kept.excluded.options})
    )
    session.execute(delete(CrawlUrls).where(CrawlUrls.crawl_job_id == job_id))
    if urls:
        session.execute(
            insert(CrawlUrls),
            [
                {"crawl_job_id": job_id, "page": page, "urls": list(urls[start : start + page_size])}
                for page, start in enumerate(range(0, len(urls), page_size))
            ],
        )


def is_kept(session: Session, job_id: int) -> bool:
    """Return whether the job's options are kept already."""
    return session.scalar(select(CrawlPlan.crawl_job_id).where(CrawlPlan.crawl_job_id == job_id)) is not None


def load(session: Session, job_id: int) -> Plan:
    """Return the plan of a job whose options are kept."""
    pages = select(func.count()).where(CrawlUrls.crawl_job_id == job_id).scalar_subquery()
    row = session.execute(
        select(CrawlJob.keywords, CrawlJob.max_images, CrawlJob.valid_images, CrawlPlan.options, CrawlPlan.round, pages)
        .join(CrawlPlan, CrawlPlan.crawl_job_id == CrawlJob.id)
        .where(CrawlJob.id == job_id)
    ).one()
    return Plan(*row)


def next_round(session: Session, job_id: int) -> None:
    """Count one more round."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(round=CrawlPlan.round + 1))


def touch(session: Session, job_id: int) -> None:
    """Note that files of the job may be written again, so that its storage has to be tidied anew."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(cleaned_at=None))


def urls(session: Session, job_id: int, page: int) -> tuple[str, ...]:
    """Return one page of the job's URL list; nothing beyond its end."""
    key = (CrawlUrls.crawl_job_id == job_id, CrawlUrls.page == page)
    return tuple(session.scalar(select(CrawlUrls.urls).where(*key)) or ())


def payload(part: Slice) -> dict[str, Any]:
    """Return a slice as a chunk carries it."""
    return asdict(part)


def slice_of(payload: Mapping[str, Any]) -> Slice:
    """Return the slice that a chunk carries."""
    only = payload["only"]
    return Slice(**{**payload, "only": None if only is None else tuple(only)})


def outcomes(session: Session, job_id: int) -> list[Outcome]:
    """Return how the job's ended slices went, oldest first."""
    rows = session.execute(
        select(Chunk.payload, Chunk.state, Chunk.result)
        .where(Chunk.crawl_job_id == job_id, Chunk.state.in_([ChunkState.COMPLETED, ChunkState.FAILED]))
        .order_by(Chunk.seq)
    )
    return [_outcome(slice_of(row.payload), row.state, row.result or {}) for row in rows]


def _outcome(part: Slice, state: str, result: Mapping[str, Any]) -> Outcome:
    if state == ChunkState.FAILED:
        return Outcome(slice=part, failed=True)
    return Outcome(
        slice=part,
        offered=result["offered"],
        stored=result["stored"],
        left=tuple(result["left"]),
        more=result["more"],
    )

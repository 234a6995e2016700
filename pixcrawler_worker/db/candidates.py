"""The ledger of a crawl's candidates: which URLs became images, and which were rejected, for good or for now.

A candidate without a row is pending: it was not requested yet, or waits in a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Boolean, Text, func, literal, literal_column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import LargeBinary

from pixcrawler_worker.db.models import CrawlCandidate
from pixcrawler_worker.domain.postgres_types import storable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate.

    Attributes:
        url_hash: of its URL.
        url: of one that was rejected.
        reason: why it was; None when it became an image.
        retriable: whether it may become an image when it is tried again.
    """

    url_hash: bytes
    url: str | None = None
    reason: str | None = None
    retriable: bool = False


def record(session: Session, job_id: int, outcomes: Sequence[Outcome]) -> int:
    """Record what became of candidates, and return how many of them the job had not seen before.

    One that was rejected for now gets its new outcome. What is decided stays.
    """
    by_hash = {outcome.url_hash: outcome for outcome in outcomes}
    if not by_hash:
        return 0
    rows = [by_hash[url_hash] for url_hash in sorted(by_hash)]
    offered = select(
        literal(job_id),
        func.unnest(literal([row.url_hash for row in rows], ARRAY(LargeBinary))),
        func.unnest(literal([None if row.url is None else storable(row.url) for row in rows], ARRAY(Text))),
        func.unnest(literal([row.reason for row in rows], ARRAY(Text))),
        func.unnest(literal([row.retriable for row in rows], ARRAY(Boolean))),
    )
    inserting = postgresql.insert(CrawlCandidate).from_select(
        ["crawl_job_id", "url_hash", "url", "reason", "retriable"], offered
    )
    new = inserting.excluded
    written = session.scalars(
        inserting.on_conflict_do_update(
            index_elements=["crawl_job_id", "url_hash"],
            set_={"url": new.url, "reason": new.reason, "retriable": new.retriable},
            where=CrawlCandidate.retriable.is_(True),
        ).returning(literal_column("xmax = 0", Boolean))
    )
    return sum(written)


def decided(session: Session, job_id: int, hashes: Sequence[bytes]) -> frozenset[bytes]:
    """Return which of the URLs became images of the job, or were rejected for good."""
    return frozenset(
        session.scalars(
            select(CrawlCandidate.url_hash).where(
                CrawlCandidate.crawl_job_id == job_id,
                CrawlCandidate.url_hash == func.any(literal(list(hashes), ARRAY(LargeBinary))),
                ~CrawlCandidate.retriable,
            )
        )
    )

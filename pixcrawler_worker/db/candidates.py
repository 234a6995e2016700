"""The ledger of a crawl's candidates: which URLs became images, and which were rejected, for good or for now.

A candidate without a row is pending: it was not requested yet, or waits in a chunk.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Integer, Text, func, literal, literal_column, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import LargeBinary

from pixcrawler_worker.db.models import CrawlCandidate
from pixcrawler_worker.domain.postgres_types import storable

#: Columns of an outcome.
_NAMES = ("url_hash", "url", "reason", "retriable")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate.

    Attributes:
        url_hash: of its URL.
        url: of one that was rejected.
        reason: why it was; None when it became an image.
        retriable: whether it may become an image when it is tried again.
        downloaded: whether its body has arrived this time.
    """

    url_hash: bytes
    url: str | None = None
    reason: str | None = None
    retriable: bool = False
    downloaded: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The outcomes that were recorded.

    Attributes:
        hashes: of the candidates that have them now.
        found: how many of these the job had not seen before.
        downloaded: how many of these were downloaded for the first time.
    """

    hashes: frozenset[bytes]
    found: int
    downloaded: int


def record(session: Session, job_id: int, outcomes: Collection[Outcome]) -> Recorded:
    """Record what became of candidates. One that was rejected for now gets its new outcome; what is decided stays.

    Until the transaction ends, no other chunk can decide them.
    """
    by_hash = {outcome.url_hash: outcome for outcome in outcomes}
    if not by_hash:
        return Recorded(frozenset(), 0, 0)
    # In the same order everywhere: two chunks that share URLs wait for each other, but not in a circle.
    rows = [by_hash[url_hash] for url_hash in sorted(by_hash)]
    downloads = func.unnest(literal([int(row.downloaded) for row in rows], ARRAY(Integer)))
    inserting = postgresql.insert(CrawlCandidate).from_select(
        ["crawl_job_id", *_NAMES, "downloads"], select(literal(job_id), *_columns(rows), downloads)
    )
    new = inserting.excluded
    written = session.execute(
        inserting.on_conflict_do_update(
            index_elements=["crawl_job_id", "url_hash"],
            set_={
                "url": new.url,
                "reason": new.reason,
                "retriable": new.retriable,
                "downloads": CrawlCandidate.downloads + new.downloads,
            },
            where=CrawlCandidate.retriable.is_(True),
        ).returning(
            CrawlCandidate.url_hash, CrawlCandidate.downloads, literal_column("xmax = 0", Boolean).label("is_new")
        )
    ).all()
    return Recorded(
        hashes=frozenset(row.url_hash for row in written),
        found=sum(row.is_new for row in written),
        downloaded=sum(by_hash[row.url_hash].downloaded and row.downloads == 1 for row in written),
    )


def correct(session: Session, job_id: int, outcomes: Collection[Outcome]) -> None:
    """Replace outcomes that the same transaction has recorded."""
    if not outcomes:
        return
    right = select(*(column.label(name) for name, column in zip(_NAMES, _columns(outcomes), strict=True))).subquery()
    session.execute(
        update(CrawlCandidate)
        .where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.url_hash == right.c.url_hash)
        .values(url=right.c.url, reason=right.c.reason, retriable=right.c.retriable)
        .execution_options(synchronize_session=False)
    )


def _columns(rows: Collection[Outcome]) -> tuple[ColumnElement[Any], ...]:
    return (
        func.unnest(literal([row.url_hash for row in rows], ARRAY(LargeBinary))),
        func.unnest(literal([None if row.url is None else storable(row.url) for row in rows], ARRAY(Text))),
        func.unnest(literal([row.reason for row in rows], ARRAY(Text))),
        func.unnest(literal([row.retriable for row in rows], ARRAY(Boolean))),
    )


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

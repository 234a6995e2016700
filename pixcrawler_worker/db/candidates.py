"""The ledger of a crawl's candidates: which URLs became images, and which were rejected, for good or for now.

A candidate without a row is pending: it was not requested yet, or waits in a chunk.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Integer, Select, Text, func, literal, literal_column, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import LargeBinary, TypeEngine

from pixcrawler_worker.db.private_models import CrawlCandidate
from pixcrawler_worker.domain.postgres_types import storable, storable_json

#: The columns of an outcome, with their types.
_COLUMNS: Mapping[str, TypeEngine[Any] | type[TypeEngine[Any]]] = {
    "url_hash": LargeBinary,
    "reason": Text,
    "retriable": Boolean,
    "url": Text,
    "label": Text,
    "detail": Text,
    "http_status": Integer,
    "list_details": JSONB(none_as_null=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a candidate.

    Attributes:
        url_hash: of its URL.
        reason: why it was rejected; None when it became an image.
        retriable: whether it may become an image when it is tried again.
        downloaded: whether its body has arrived this time.
        url: of one that was rejected; None when that is not to be kept.
        label: its class.
        detail: what happened, in one line without secrets.
        http_status: of the response, where it was the reason.
        list_details: what the URL list says about it, as `ListRow.details` returns it.
    """

    url_hash: bytes
    reason: str | None = None
    retriable: bool = False
    downloaded: bool = False
    url: str | None = None
    label: str | None = None
    detail: str | None = None
    http_status: int | None = None
    list_details: Mapping[str, Any] | None = None


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
        ["crawl_job_id", "tried_at", *_COLUMNS, "downloads"],
        select(literal(job_id), func.now(), *_columns(rows), downloads),
    )
    new = inserting.excluded
    written = session.execute(
        inserting.on_conflict_do_update(
            index_elements=["crawl_job_id", "url_hash"],
            set_={
                **{name: new[name] for name in _COLUMNS},
                "downloads": CrawlCandidate.downloads + new.downloads,
                "attempts": CrawlCandidate.attempts + 1,
                "tried_at": new.tried_at,
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
    right = select(*_columns(outcomes)).subquery()
    session.execute(
        update(CrawlCandidate)
        .where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.url_hash == right.c.url_hash)
        .values({name: right.c[name] for name in _COLUMNS})
        .execution_options(synchronize_session=False)
    )


def _columns(rows: Collection[Outcome]) -> list[ColumnElement[Any]]:
    return [
        func.unnest(literal([_storable(getattr(row, name)) for row in rows], ARRAY(type_))).label(name)
        for name, type_ in _COLUMNS.items()
    ]


def _storable(value: object) -> object:
    if isinstance(value, str):
        return storable(value)
    return storable_json(value) if isinstance(value, Mapping) else value


def decided(session: Session, job_id: int, hashes: Sequence[bytes]) -> frozenset[bytes]:
    """Return which of the URLs became images of the job, or were rejected for good."""
    return frozenset(session.scalars(_known(job_id, hashes).where(~CrawlCandidate.retriable)))


def recorded(session: Session, job_id: int, hashes: Sequence[bytes]) -> frozenset[bytes]:
    """Return which of the URLs the job has processed, those that were rejected for now, too."""
    return frozenset(session.scalars(_known(job_id, hashes)))


def _known(job_id: int, hashes: Sequence[bytes]) -> Select[bytes]:
    return select(CrawlCandidate.url_hash).where(
        CrawlCandidate.crawl_job_id == job_id,
        CrawlCandidate.url_hash == func.any(literal(list(hashes), ARRAY(LargeBinary))),
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that was rejected.

    Attributes:
        url_hash: of its URL, by which failures are sorted.
        url: None when it was not kept, because the job had too many.
        label: its class.
        reason: why.
        detail: what happened.
        http_status: of the response, where it was the reason.
        retriable: whether a retry of the job tries it again.
        attempts: how often the job has tried it.
        tried_at: the last time.
        list_details: what the URL list says about it, as `ListRow.details` returns it.
    """

    url_hash: bytes
    url: str | None
    label: str | None
    reason: str
    detail: str | None
    http_status: int | None
    retriable: bool
    attempts: int
    tried_at: datetime | None
    list_details: Any = None


def failures(  # noqa: PLR0913 - a page of a filtered list
    session: Session,
    job_id: int,
    *,
    reasons: Collection[str] = (),
    retriable: bool = False,
    after: bytes = b"",
    limit: int = 1000,
) -> list[Failure]:
    """Return rejected candidates of a job, sorted by the hashes of their URLs.

    Args:
        session: read only.
        job_id: the crawl job.
        reasons: return only those with one of these; all when empty.
        retriable: return only those that a retry tries again.
        after: return those with a greater hash.
        limit: of the number of rows.
    """
    query = (
        select(*(getattr(CrawlCandidate, column.name) for column in fields(Failure)))
        .where(
            CrawlCandidate.crawl_job_id == job_id,
            CrawlCandidate.url_hash > after,
            CrawlCandidate.reason.is_not(None),
        )
        .order_by(CrawlCandidate.url_hash)
        .limit(limit)
    )
    if reasons:
        query = query.where(CrawlCandidate.reason.in_(reasons))
    if retriable:
        query = query.where(CrawlCandidate.retriable)
    return [Failure(*row) for row in session.execute(query)]


def have_list_details(session: Session, job_id: int) -> bool:
    """Return whether a URL list said something about a rejected candidate of a job, besides its URL and its label."""
    query = select(literal(1)).where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.list_details.is_not(None))
    return session.scalar(query.limit(1)) is not None


def count_retriable(session: Session, job_id: int) -> int:
    """Return how many candidates of a job were rejected for now."""
    query = select(func.count()).where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.retriable)
    return session.scalars(query).one()

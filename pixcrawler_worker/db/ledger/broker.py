"""When the broker has lost messages: what was sent before is sent again soon, instead of after growing intervals."""

from datetime import datetime, timedelta

from sqlalchemy import ScalarSelect, case, func, or_, select, update
from sqlalchemy.orm import Session

from pixcrawler_worker.db.private_models import Broker, Chunk
from pixcrawler_worker.domain.lifecycle import ChunkState

_NOW = func.clock_timestamp()


def lost_at() -> ScalarSelect[datetime | None]:
    """Return the expression for the time before which messages may be lost; NULL when none are."""
    return select(Broker.lost_at).scalar_subquery()


def note_identity(session: Session, identity: str, *, gap: timedelta) -> bool:
    """Note what identifies the data of the broker; return whether messages are lost since another one was noted.

    Many workers may notice it at once: one of them notes it.

    Args:
        session: a transaction of its own.
        identity: as the broker has it now.
        gap: time between two losses, at least: a broker whose identity never stays the same floods nothing.
    """
    if session.scalar(select(Broker.identity)) == identity:
        return False
    noted = session.execute(
        update(Broker)
        .where(Broker.identity.is_distinct_from(identity), or_(Broker.lost_at.is_(None), Broker.lost_at + gap < _NOW))
        # The first identity that is noted says nothing about messages before.
        .values(identity=identity, lost_at=case((Broker.identity.is_(None), Broker.lost_at), else_=_NOW))
        .returning(Broker.lost_at)
    ).one_or_none()
    return noted is not None and noted.lost_at is not None


def suspect_loss(session: Session, *, age: timedelta, gap: timedelta) -> bool:
    """Note that messages may be lost since a connection to the broker broke; return whether that is settled.

    Args:
        session: a transaction of its own.
        age: how long ago the connection came back.
        gap: time between two losses, at least; until then the caller asks again.
    """
    if session.scalar(select(Broker.lost_at > _NOW - age)):
        return True
    noted = update(Broker).where(or_(Broker.lost_at.is_(None), Broker.lost_at + gap < _NOW)).values(lost_at=_NOW)
    return session.scalar(noted.returning(Broker.id)) is not None


def unsent(session: Session, chunk_ids: list[int]) -> int:
    """Note that the messages of these chunks were not sent, so that the next sweep sends them; return how many.

    A chunk that is claimed by now had its message nevertheless.
    """
    chosen = (
        select(Chunk.id)
        .where(Chunk.id.in_(chunk_ids), Chunk.state == ChunkState.QUEUED, Chunk.dispatched_at.is_not(None))
        .order_by(Chunk.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    undone = session.scalars(
        update(Chunk)
        .where(Chunk.id.in_(session.scalars(chosen).all()))
        .values(dispatched_at=None, dispatch_count=func.greatest(Chunk.dispatch_count - 1, 0))
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    )
    return len(undone.all())

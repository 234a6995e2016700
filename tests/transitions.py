"""Every transition of the ledger, on a job with two queued chunks that is brought to where the transition can happen.

What they return is executed in one transaction, and again when the response to its COMMIT was lost.
"""

import contextlib
from collections.abc import Callable

import ledger
from factories import make_image
from ledger import LEASE
from sqlalchemy.orm import Session

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.tables import JobRef, NotRunningError
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import ENDED

Work = Callable[[Session], object]
Transition = Callable[[Sessions, JobRef], Work]


def claiming(sessions: Sessions, ref: JobRef) -> Work:
    (chunk_id, _) = ledger.ids_of(sessions, ref)

    def claim(session: Session) -> None:
        # Also when an earlier try of the same delivery was committed and its response was lost.
        held = chunks.claim(session, ref.table, chunk_id, owner="me", lease=LEASE)
        assert held is not None or jobs.status(session, ref) is None

    return claim


def finishing(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    if ref.table is not CRAWL_JOBS:
        return lambda session: ledger.bring(session, claim, gains={"total_images": 3})
    found = [make_image(f"{ref.id} {number}") for number in range(3)]
    return lambda session: ledger.bring(session, claim, found)


def releasing(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: chunks.release(session, claim, error="busy", jitter=0.5)


def unclaiming(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: chunks.undo_claim(session, claim)


def failing(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: chunks.fail(session, claim, error="broken")


def reaping(sessions: Sessions, ref: JobRef) -> Work:
    ledger.expire_lease(sessions, ledger.claim(sessions, ledger.ids_of(sessions, ref)[0]).chunk_id)
    return ledger.reap


def cancelling(sessions: Sessions, ref: JobRef) -> Work:
    ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])

    def cancel(session: Session) -> None:
        if jobs.cancel(session, ref):
            _record(session, ref, "cancelled")

    return cancel


def dropping(sessions: Sessions, ref: JobRef) -> Work:
    transact(sessions, cancelling(sessions, ref))
    return lambda session: jobs.drop_chunks(session, ref)


def retrying(sessions: Sessions, ref: JobRef) -> Work:
    transact(sessions, dropping(sessions, ref))

    def retry(session: Session) -> None:
        if jobs.status(session, ref) in ENDED:
            # An earlier try may commit only after this look at the status: `submission.retry` takes that for done, too.
            with contextlib.suppress(NotRunningError):
                jobs.retry(session, ref)
                _record(session, ref, "retried")

    return retry


def planning(sessions: Sessions, ref: JobRef) -> Work:
    for chunk_id in ledger.ids_of(sessions, ref):
        ledger.finish(sessions, ledger.claim(sessions, chunk_id))

    def plan(session: Session) -> None:
        if jobs.lock(session, ref) and not jobs.counters(session, ref).open:
            jobs.add_chunks(session, ref, [{}, {}])
            _record(session, ref, "started")

    return plan


TRANSITIONS: tuple[Transition, ...] = (
    claiming,
    finishing,
    releasing,
    unclaiming,
    failing,
    reaping,
    cancelling,
    dropping,
    retrying,
    planning,
)


def _record(session: Session, ref: JobRef, event: str) -> None:
    if ref.table is CRAWL_JOBS:
        activity_log.record(session, ref, event)

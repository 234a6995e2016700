"""The ledger of candidates: each URL is counted once, and what was rejected for now may become something else."""

from functools import partial

from factories import make_job
from ledger import at_once
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db import candidates
from pixcrawler_worker.db.candidates import Outcome, Recorded
from pixcrawler_worker.db.private_models import CrawlCandidate
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.storage_keys import url_hash

A, B, C, D = (url_hash(name) for name in "abcd")


def record(sessions: Sessions, job_id: int, *outcomes: Outcome) -> Recorded:
    return transact(sessions, lambda session: candidates.record(session, job_id, outcomes))


def recorded(*hashes: bytes, found: int, downloaded: int = 0) -> Recorded:
    return Recorded(frozenset(hashes), found, downloaded)


def decided(sessions: Sessions, job_id: int, *hashes: bytes) -> frozenset[bytes]:
    return transact(sessions, lambda session: candidates.decided(session, job_id, hashes))


def rows(sessions: Sessions, job_id: int) -> dict[bytes, tuple[str | None, str | None, bool]]:
    columns = (CrawlCandidate.url_hash, CrawlCandidate.url, CrawlCandidate.reason, CrawlCandidate.retriable)
    with sessions.begin() as session:
        found = session.execute(select(*columns).where(CrawlCandidate.crawl_job_id == job_id))
        return {row.url_hash: (row.url, row.reason, row.retriable) for row in found}


def test_a_url_is_counted_when_it_is_processed_for_the_first_time(sessions: Sessions) -> None:
    job_id, other = make_job(sessions), make_job(sessions)
    assert record(sessions, job_id, Outcome(url_hash=A), Outcome(url_hash=B), Outcome(url_hash=A)) == recorded(
        A, B, found=2
    )
    assert record(sessions, job_id, Outcome(url_hash=B), Outcome(url_hash=C)) == recorded(C, found=1)
    assert record(sessions, job_id) == recorded(found=0)
    assert record(sessions, other, Outcome(url_hash=A)) == recorded(A, found=1)
    assert decided(sessions, job_id, A, C, D) == {A, C}
    assert decided(sessions, other, A, C) == {A}
    assert decided(sessions, job_id) == frozenset()


def test_what_was_rejected_for_now_is_not_decided_and_gets_its_new_outcome(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for_now = Outcome(url_hash=A, url="http://a.example/\x00", reason="timeout", retriable=True)
    corrupt = Outcome(url_hash=B, url="http://b.example/", reason="corrupt")
    assert record(sessions, job_id, for_now, corrupt) == recorded(A, B, found=2)
    assert decided(sessions, job_id, A, B) == {B}
    assert rows(sessions, job_id)[A] == ("http://a.example/", "timeout", True)
    assert record(sessions, job_id, Outcome(url_hash=A), Outcome(url_hash=B)) == recorded(A, found=0)
    assert rows(sessions, job_id) == {A: (None, None, False), B: ("http://b.example/", "corrupt", False)}
    assert decided(sessions, job_id, A, B) == {A, B}


def test_a_download_is_counted_once_however_often_the_candidate_is_tried(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    arrived = Outcome(url_hash=A, reason="decoder_died", retriable=True, downloaded=True)
    assert record(sessions, job_id, arrived, Outcome(url_hash=B, reason="timeout", retriable=True)).downloaded == 1
    assert record(sessions, job_id, arrived, Outcome(url_hash=B, reason="timeout", retriable=True)).downloaded == 0
    done = (
        Outcome(url_hash=A, downloaded=True),
        Outcome(url_hash=B, downloaded=True),
        Outcome(url_hash=C, downloaded=True),
        Outcome(url_hash=D),
    )
    assert record(sessions, job_id, *done) == recorded(A, B, C, D, found=2, downloaded=2)
    assert record(sessions, job_id, *done) == recorded(found=0)


def test_an_outcome_can_be_corrected_in_the_transaction_that_has_recorded_it(sessions: Sessions) -> None:
    job_id, other = make_job(sessions), make_job(sessions)
    record(sessions, other, Outcome(url_hash=A))

    def work(session: Session) -> None:
        candidates.record(session, job_id, [Outcome(url_hash=A), Outcome(url_hash=B)])
        candidates.correct(session, job_id, [Outcome(url_hash=A, url="http://a.example/", reason="duplicate_bytes")])
        candidates.correct(session, job_id, [])

    transact(sessions, work)
    assert rows(sessions, job_id) == {A: ("http://a.example/", "duplicate_bytes", False), B: (None, None, False)}
    assert rows(sessions, other) == {A: (None, None, False)}


def test_concurrent_chunks_with_the_same_urls_count_each_once(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    outcomes = [Outcome(url_hash=url_hash(str(number)), reason="x") for number in range(20_000)]

    def add(part: list[Outcome]) -> int:
        with sessions.begin() as session:
            return candidates.record(session, job_id, part).found

    assert sum(at_once(partial(add, outcomes[:15_000]), partial(add, outcomes[:5_000:-1]))) == 20_000
    with sessions.begin() as session:
        kept = session.scalar(select(func.count()).where(CrawlCandidate.crawl_job_id == job_id))
    assert kept == 20_000


def test_what_a_list_says_about_a_rejected_candidate_is_kept(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    details = {"caption": "a\x00 'cat'", "label": "cat", "columns": {"n": [1, None, "\ud800"]}}
    rejected = [
        Outcome(url_hash=A, url="http://a.example/", reason="timeout", retriable=True, list_details=details),
        Outcome(url_hash=B, url="http://b.example/", reason="timeout", retriable=True),
    ]
    record(sessions, job_id, *rejected)
    with sessions.begin() as session:
        found = {one.url_hash: one.list_details for one in candidates.failures(session, job_id)}
        nulls = session.scalar(
            select(func.count()).where(CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.list_details.is_(None))
        )
    assert found == {A: {"caption": "a 'cat'", "label": "cat", "columns": {"n": [1, None, "?"]}}, B: None}
    assert nulls == 1
    # One that became an image after all has it in its own row.
    record(sessions, job_id, Outcome(url_hash=A))
    with sessions.begin() as session:
        row = (CrawlCandidate.crawl_job_id == job_id, CrawlCandidate.url_hash == A)
        assert session.scalars(select(CrawlCandidate.list_details).where(*row)).one() is None

"""What other jobs have, found by an index, and one job after the other that adds to it."""

import threading
import time

import ledger
from factories import make_image, make_job, make_project
from sqlalchemy import text

from pixcrawler_worker.db import images, known_images
from pixcrawler_worker.db.known_images import Known
from pixcrawler_worker.db.session import Session, Sessions

_WAITS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def known(session: Session, job_id: int, *names: str, of_project: bool = True) -> Known:
    wanted = [make_image(name) for name in names]
    return known_images.known(
        session,
        job_id,
        urls=[image.url_hash for image in wanted],
        digests=[image.facts.sha256 for image in wanted],
        of_project=of_project,
    )


def test_another_job_that_adds_images_is_waited_for_and_its_images_are_known_then(sessions: Sessions) -> None:
    project = make_project(sessions)
    one, other, elsewhere = (
        make_job(sessions, project_id=project),
        make_job(sessions, project_id=project),
        make_job(sessions),
    )
    image = make_image("a")
    found: list[Known] = []

    def look(job_id: int) -> None:
        with sessions.begin() as session:
            known_images.lock(session, job_id)
            found.append(known(session, job_id, "a", "b"))

    thread = threading.Thread(target=look, args=[other])
    with sessions.begin() as session:
        known_images.lock(session, one)
        thread.start()
        until = time.monotonic() + 30
        while not session.scalar(text(_WAITS)) and time.monotonic() < until:
            time.sleep(0.01)
        look(elsewhere)  # of another project: it waits for nothing
        images.insert_new(session, one, [image])
    thread.join()
    assert found == [Known(), Known(frozenset({image.url_hash}), frozenset({image.facts.sha256}))]


def test_a_job_that_extends_others_knows_these(sessions: Sessions) -> None:
    project = make_project(sessions)
    base, other, job = (make_job(sessions, project_id=project) for _ in range(3))
    foreign = make_job(sessions)
    for owner, name in ((base, "a"), (other, "b"), (foreign, "c"), (job, "d")):
        with sessions.begin() as session:
            images.insert_new(session, owner, [make_image(name)])
    ledger.execute(
        sessions,
        "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, bases) VALUES (:job, ARRAY[:base, :foreign])",
        job=job,
        base=base,
        foreign=foreign,
    )
    with sessions.begin() as session:
        assert known(session, job, "a", "b", "c", "d", of_project=False).urls == {make_image("a").url_hash}
        everything = known(session, job, "a", "b", "c", "d")
        assert everything.digests == {make_image(name).facts.sha256 for name in "ab"}
        assert known(session, job) == Known()


def test_known_images_are_found_by_an_index_among_many(sessions: Sessions) -> None:
    """A hundred lookups among 20,000 images of 100 jobs read a few pages each."""
    project = make_project(sessions)
    job = make_job(sessions, project_id=project)
    ledger.execute(
        sessions,
        """
        WITH made AS (
            INSERT INTO crawl_jobs (project_id, name, keywords)
            SELECT :project, 'many', '[]' FROM generate_series(1, 100) RETURNING id
        ), stored AS (
            INSERT INTO images (crawl_job_id, original_url, filename)
            SELECT made.id, 'u', 'f' FROM made, generate_series(1, 200) RETURNING id, crawl_job_id
        )
        INSERT INTO pixcrawler.image_facts
            (image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source)
        SELECT id, crawl_job_id, sha256(id::text::bytea), substr(sha256(('u' || id)::bytea), 1, 16),
            0, 0, 1, 'RGB', 1, 'cat', 'cat', 'urls'
        FROM stored
        """,
        project=project,
    )
    ledger.execute(sessions, "ANALYZE")
    with sessions.begin() as session:
        for statement in known_images.STATEMENTS:
            values = {"job": job, "hashes": [bytes([number]) * 16 for number in range(100)], "of_project": True}
            plan = "\n".join(session.scalars(text(f"EXPLAIN {statement}"), values))
            assert "Scan using uq_image_facts_" in plan, plan
            assert "Seq Scan on image_facts" not in plan, plan
    ledger.execute(sessions, "DELETE FROM crawl_jobs WHERE name = 'many'")

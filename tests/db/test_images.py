"""Inserting images in bulk: each image of a job once, with all its facts, in few statements."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import ledger
import psycopg
import pytest
from factories import make_facts, make_image, make_job, start_job
from fakes.postgres_proxy import PostgresProxy, postgres_proxy
from ledger import at_once
from sqlalchemy import func, select, text

from pixcrawler_worker.db import candidates, image_records, images, session, validation_results
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.images import (
    HASH_VERSION,
    MEASURED_HASH_VERSION,
    METRICS_VERSION,
    NewImage,
    insert_each,
    insert_new,
)
from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.private_models import ImageFact
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.errors import OutageError


def insert(sessions: Sessions, job_id: int, *found: NewImage) -> list[int]:
    return transact(sessions, lambda session: insert_new(session, job_id, found))


def count(sessions: Sessions, job_id: int) -> int:
    with sessions.begin() as session:
        rows = session.scalar(select(func.count()).where(Image.crawl_job_id == job_id))
        facts = session.scalar(select(func.count()).where(ImageFact.crawl_job_id == job_id))
    assert rows is not None
    assert rows == facts
    return rows


def other(name: str) -> dict[str, Any]:
    """Return the URL and the facts of another image."""
    image = make_image(name)
    return {"url": image.url, "url_hash": image.url_hash, "facts": image.facts}


# Values


def test_all_facts_and_the_credit_of_an_image_are_stored(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    credit = Credit(
        page_url="https://example.org/page",
        title="Katze \u732b \U0001f408",
        author="O'Brien; DROP TABLE images",
        license="cc-by-4.0",
        license_url="https://example.org/license",
        attribution="tab\there, \\N and new\nline",
    )
    facts = make_facts("a", phash=2**64 - 1, dhash=2**63, width=1, height=16_384, file_size=2**31 - 1, frames=9)
    image = make_image("a", facts=facts, credit=credit, label="feline", query="cat", source="gallery")
    assert insert(sessions, job_id, image) == [0]
    with sessions.begin() as session:
        row, kept = session.execute(
            select(Image, ImageFact).join(ImageFact, ImageFact.image_id == Image.id).where(Image.crawl_job_id == job_id)
        ).one()
        assert (row.original_url, row.filename, row.storage_url) == (image.url, image.filename, image.storage_url)
        assert (row.width, row.height, row.file_size, row.format) == (1, 16_384, 2**31 - 1, "jpg")
        assert (kept.crawl_job_id, kept.sha256, kept.url_hash) == (job_id, facts.sha256, url_hash(image.url))
        assert (kept.phash % 2**64, kept.dhash % 2**64) == (2**64 - 1, 2**63)
        assert (kept.mode, kept.frames, kept.hash_version) == ("RGB", 9, HASH_VERSION)
        assert (kept.label, kept.query, kept.source) == ("feline", "cat", "gallery")
        assert {name: getattr(kept, name) for name in asdict(credit)} == asdict(credit)


def test_caption_and_columns_of_an_image_are_stored(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    nested = {"k": [None, True, 2**63 - 1, -0.5, "\u732b"]}
    columns = {"a\tb": "tab\there, \\N and new\nline", "quote'\"": nested, "\\": ""}
    image = make_image("a", caption="O'Brien\n\\.\n\u202e\U0001f408\t", columns=columns)
    hostile = make_image("b", caption="a\x00b\ud800", columns={"a\x00": "\ud800\x00", "b": float("nan")})
    assert insert(sessions, job_id, image, hostile, make_image("c")) == [0, 1, 2]
    # By the statement that decides conflicts, too.
    assert insert(sessions, job_id, replace(image, facts=make_facts("d")), replace(hostile, **other("e"))) == [1]
    with sessions.begin() as session:
        found = session.execute(
            select(ImageFact.caption, ImageFact.columns)
            .where(ImageFact.crawl_job_id == job_id)
            .order_by(ImageFact.image_id)
        ).all()
    kept = ("ab?", {"a": "?", "b": "nan"})
    assert sorted(map(tuple, found), key=str) == sorted([(image.caption, columns), kept, (None, None), kept], key=str)


def test_what_was_measured_of_an_image_is_stored_with_its_version(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    metrics = Metrics(
        brightness_p5=0.1234, brightness_p99=1.0, entropy=7.5, std=0.0, sharpness=0.3, channel_delta=9, transparent=True
    )
    facts = make_facts("a", width=640, height=480)
    assert insert(sessions, job_id, make_image("a", facts=facts, metrics=metrics), make_image("b")) == [0, 1]
    with sessions.begin() as session:
        measured, inspected = session.scalars(
            select(ImageFact).where(ImageFact.crawl_job_id == job_id).order_by(ImageFact.hash_version.desc())
        )
        assert (measured.hash_version, measured.metrics_version) == (MEASURED_HASH_VERSION, METRICS_VERSION)
        assert measured.metrics == {
            "brightness_p5": 0.1234,
            "brightness_p99": 1.0,
            "entropy": 7.5,
            "std": 0.0,
            "sharpness": 0.3,
            "channel_delta": 9,
            "transparent": True,
            "orientation": 1,
            "gps": False,
            "format": "jpg",
            "width": 640,
            "height": 480,
        }
        assert (inspected.hash_version, inspected.metrics_version, inspected.metrics) == (HASH_VERSION, None, None)


@pytest.mark.parametrize("bits", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0xFEDC_BA98_7654_3210])
def test_a_hash_keeps_all_of_its_64_bits(sessions: Sessions, bits: int) -> None:
    job_id = make_job(sessions)
    insert(sessions, job_id, make_image("a", facts=make_facts("a", phash=bits, dhash=bits)))
    with sessions.begin() as session:
        kept = session.execute(select(ImageFact.phash, ImageFact.dhash).where(ImageFact.crawl_job_id == job_id)).one()
        (record,) = image_records.of_crawl(session, job_id)
        facts = record.facts
        far = session.scalar(
            text(
                "SELECT bit_count((phash # (:other)::int8)::bit(64)) FROM pixcrawler.image_facts"
                " WHERE crawl_job_id = :job"
            ),
            {"other": -1, "job": job_id},
        )
    assert [value % 2**64 for value in kept] == [bits, bits]
    assert facts is not None
    assert (facts.phash, facts.dhash) == (bits, bits)
    assert far == 64 - bits.bit_count()


def test_unknown_values_stay_unknown(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    insert(sessions, job_id, make_image("a"))
    with sessions.begin() as session:
        (stored,) = image_records.of_crawl(session, job_id)
    assert stored.credit == Credit()


def test_untrusted_texts_lose_only_characters_that_cannot_be_stored(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    untrusted = make_image(
        "a",
        url="https://example.org/a\0b\ud800c",
        credit=Credit(title="a\0b", author="\ud83d", page_url="\0", attribution="\u202e\ufffe\x7f"),
    )
    assert insert(sessions, job_id, untrusted) == [0]
    with sessions.begin() as session:
        (stored,) = image_records.of_crawl(session, job_id)
    assert stored.original_url == "https://example.org/ab?c"
    assert (stored.credit.title, stored.credit.author, stored.credit.page_url) == ("ab", "?", "")
    assert stored.credit.attribution == "\u202e\ufffe\x7f"


def test_images_are_read_by_label_and_id(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    insert(sessions, job_id, make_image("b1", label="b"), make_image("a1", label="a"))
    insert(sessions, job_id, make_image("a2", label="a"))
    with sessions.begin() as session:
        stored = image_records.of_crawl(session, job_id)
        files = images.files(session, job_id)
    assert [image.filename for image in stored] == ["a1.jpg", "a2.jpg", "b1.jpg"]
    assert stored[0].sha256 == hashlib.sha256(b"a1").digest()
    assert files == {image.storage_url for image in stored}


# Duplicates


def test_an_image_is_inserted_once_per_url_and_per_content(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    a, b, c = make_image("a"), make_image("b"), make_image("c")
    assert insert(sessions, job_id, a) == [0]
    same_url, same_bytes = make_image("d", url=a.url), make_image("e", facts=a.facts)
    assert insert(sessions, job_id, same_url, b, same_bytes, a, c) == [1, 4]
    assert insert(sessions, job_id, a, b, c) == []
    assert insert(sessions, job_id) == []
    assert count(sessions, job_id) == 3


def test_a_url_that_occurs_twice_in_one_insert_is_inserted_once(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    twice = [make_image(name, url=f"https://example.org/a#{name}") for name in ("a", "b")]
    assert len(insert(sessions, job_id, *twice)) == 1
    assert count(sessions, job_id) == 1


def test_another_job_may_have_the_same_images(sessions: Sessions) -> None:
    first, second = make_job(sessions), make_job(sessions)
    assert insert(sessions, first, make_image("a")) == [0]
    assert insert(sessions, second, make_image("a")) == [0]


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("DELETE FROM images WHERE filename = 'a.jpg'", ["b.jpg", "c.jpg"]),
        ("DELETE FROM images WHERE filename <> 'a.jpg'", ["a.jpg"]),
        ("DELETE FROM images WHERE false", ["a.jpg", "b.jpg", "c.jpg"]),
        ("DELETE FROM crawl_jobs", []),
        ("DELETE FROM profiles", []),
        ("TRUNCATE images CASCADE", []),
        ("TRUNCATE profiles CASCADE", []),
    ],
)
def test_facts_are_deleted_with_their_images(sessions: Sessions, statement: str, left: list[str]) -> None:
    ledger.execute(sessions, "DELETE FROM profiles")
    insert(sessions, make_job(sessions), *map(make_image, "abc"))
    ledger.execute(sessions, statement)
    named = select(Image.filename, ImageFact.sha256).select_from(ImageFact)
    with sessions.begin() as session:
        found = sorted(session.execute(named.outerjoin(Image, Image.id == ImageFact.image_id)))
    assert found == [(name, make_image(name[0]).facts.sha256) for name in left]


@pytest.mark.parametrize("first", ["delete", "record"])
def test_an_image_that_is_deleted_while_its_facts_are_recorded_leaves_none(sessions: Sessions, first: str) -> None:
    """As for an image of another program, which a validation has measured."""
    job_id = make_job(sessions)
    insert(sessions, job_id, *map(make_image, "ab"))
    with sessions.begin() as session:
        image, kept = image_records.of_crawl(session, job_id)
        session.execute(text("DELETE FROM pixcrawler.image_facts"))

    def delete(session: Session) -> None:
        session.execute(text("DELETE FROM images WHERE id = :id"), {"id": image.id})

    def record(session: Session) -> None:
        validation_results.record_facts(session, job_id, [(image, make_facts("a"))], hash_version=1, label="cat")

    before, after = (delete, record) if first == "delete" else (record, delete)
    with ThreadPoolExecutor(1) as threads:
        with sessions.begin() as session:
            before(session)
            other = threads.submit(transact, sessions, after)
            while not ledger.is_any_waiting_for_lock(sessions):
                time.sleep(0.01)
        other.result()
    left = "SELECT id, (SELECT count(*) FROM pixcrawler.image_facts) FROM images WHERE crawl_job_id = :job"
    assert ledger.row(sessions, left, job=job_id) == (kept.id, 0)


def test_concurrent_inserts_of_the_same_images_in_opposite_orders_insert_each_once(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    found = [make_image(str(position)) for position in range(2500)]

    def insert_all(found: list[NewImage]) -> int:
        # In one transaction without a retry: a deadlock would be raised.
        with sessions.begin() as session:
            return len(insert_new(session, job_id, found))

    inserted = at_once(*(partial(insert_all, part) for part in (found[:2000], found[:500:-1])))
    assert sum(inserted) == count(sessions, job_id) == 2500


def test_concurrent_inserts_of_the_same_urls_with_different_bytes_insert_each_once(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    found = [[make_image(f"{who} {n}", url=f"https://example.org/{n}") for n in range(20)] for who in "ab"]
    inserted = at_once(*(partial(insert, sessions, job_id, *part) for part in found))
    assert sum(map(len, inserted)) == count(sessions, job_id) == 20


def test_an_insert_with_a_transient_error_is_retried(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    tries = []

    with sessions() as holder:
        insert_new(holder, job_id, [make_image("a")])

        def work(session: Session) -> list[int]:
            tries.append(1)
            if len(tries) == 2:
                holder.commit()
            session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            return insert_new(session, job_id, [make_image("a"), make_image("b")])

        assert transact(sessions, work, pauses=(0,)) == [1]
    assert len(tries) == 2


# Cost


@pytest.fixture(scope="module")
def wire(database_url: str) -> Iterator[PostgresProxy]:
    with postgres_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def counted(wire: PostgresProxy) -> Iterator[Sessions]:
    engine = session.connect(wire.url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


def test_finishing_a_chunk_takes_as_many_statements_for_500_images_as_for_5(
    sessions: Sessions, wire: PostgresProxy, counted: Sessions
) -> None:
    def finishing(number: int) -> tuple[int, int]:
        ref = start_job(sessions, max_images=1000)
        claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
        found = [make_image(f"{number} {position}") for position in range(number)]

        def finish(session: Session) -> None:
            candidates.record(session, ref.id, [Outcome(url_hash=url_hash(image.url)) for image in found])
            ledger.bring(session, claim, found)

        transact(counted, lambda session: session.scalar(text("SELECT 1")))
        requests, statements = wire.requests, len(wire.statements)
        transact(counted, finish)
        assert count(sessions, ref.id) == number
        ledger.check(sessions, ref)
        return wire.requests - requests, sum(one.startswith("COPY ") for one in wire.statements[statements:])

    finishing(1)  # statements are prepared
    few, many = finishing(5), finishing(500)
    assert few == many
    requests, copies = many
    assert copies == 2
    assert requests <= 14


# Images that the job has already


def test_what_another_transaction_inserts_at_this_moment_is_left_out(sessions: Sessions) -> None:
    """Neither it nor the others of the batch are lost, whichever of the unique indexes notices it."""
    job_id = make_job(sessions)
    same_bytes = replace(make_image("theirs"), facts=make_facts("shared"))
    same_url = make_image("url")
    with sessions() as other:
        insert_new(other, job_id, [same_bytes, same_url])
        mine = [
            make_image("first"),
            replace(make_image("mine"), facts=make_facts("shared")),
            make_image("second"),
            replace(same_url, facts=make_facts("other bytes")),
        ]
        with ThreadPoolExecutor(1) as threads:
            inserting = threads.submit(transact, sessions, lambda session: insert_each(session, job_id, mine))
            while not ledger.is_any_waiting_for_lock(sessions):
                time.sleep(0.01)
            other.commit()
            inserted = inserting.result()
    assert (list(inserted.positions), dict(inserted.errors)) == ([0, 2], {})
    assert count(sessions, job_id) == 4


@pytest.mark.usefixtures("picky")
@pytest.mark.parametrize("order", ["nubmk", "nmbu", "nmbk", "bunm", "mnkub"])
def test_a_batch_may_have_known_images_and_rejected_ones(sessions: Sessions, order: str) -> None:
    """Wherever an error falls when the batch is halved: what a half has inserted before it is not known."""
    job_id = make_job(sessions)
    known = make_image("known")
    insert(sessions, job_id, known)
    of_batch = {
        "n": make_image("new"),
        "m": make_image("more"),
        "b": make_image("bad"),
        "k": known,
        "u": replace(known, facts=make_facts("again")),
    }
    found = [of_batch[letter] for letter in order]
    inserted = transact(sessions, lambda session: insert_each(session, job_id, found))
    assert list(inserted.positions) == [at for at, letter in enumerate(order) if letter in "nm"]
    assert list(inserted.errors) == [order.index("b")]
    assert count(sessions, job_id) == 3


def test_a_table_that_was_empty_and_vacuumed_is_not_read_all_for_each_batch(
    database_url: str, sessions: Sessions
) -> None:
    """As a connection that lives long prepares its statements then, for a table without rows."""
    # Not by DELETE: other transactions of the server may hold what VACUUM is to remove.
    ledger.execute(sessions, "TRUNCATE profiles CASCADE")
    ledger.execute(sessions, "TRUNCATE pixcrawler.image_facts")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM pixcrawler.image_facts")
    job_id = make_job(sessions)
    engine = session.connect(database_url, pool_size=1)
    one_connection = session.sessions(engine)
    for batch in range(60):
        insert(one_connection, job_id, *(make_image(f"{batch} {number}") for number in range(60)))
    ledger.execute(one_connection, "SELECT pg_stat_force_next_flush()")
    engine.dispose()
    read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'pixcrawler.image_facts'::regclass"
    assert ledger.scalar(sessions, read) < 30_000


# Images that the database rejects


@pytest.fixture
def picky(sessions: Sessions) -> Iterator[None]:
    """A constraint and a trigger that an operator has added."""
    ledger.execute(sessions, "ALTER TABLE images ADD CONSTRAINT picky CHECK (original_url NOT LIKE '%bad%')")
    ledger.execute(
        sessions,
        "CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.original_url LIKE '%full%' THEN RAISE disk_full; END IF; RETURN NEW; END $$",
    )
    ledger.execute(sessions, "CREATE TRIGGER picky BEFORE INSERT ON images FOR EACH ROW EXECUTE FUNCTION picky()")
    yield
    ledger.execute(sessions, "DROP FUNCTION picky CASCADE")
    ledger.execute(sessions, "ALTER TABLE images DROP CONSTRAINT picky")


@pytest.mark.usefixtures("picky")
@pytest.mark.parametrize("bad", [{0}, {7}, {12}, {3, 4}, {0, 5, 12}, set(range(12))])
def test_images_that_the_database_rejects_do_not_cost_the_others(sessions: Sessions, bad: set[int]) -> None:
    job_id = make_job(sessions)
    found = [make_image(f"{'bad' if number in bad else 'good'} {number}") for number in range(13)]
    inserted = transact(sessions, lambda session: insert_each(session, job_id, found))
    good = sorted(set(range(13)) - bad)
    assert inserted.positions == good
    assert inserted.errors.keys() == bad
    assert all("picky" in error and error.endswith("(SQLSTATE 23514)") for error in inserted.errors.values())
    assert count(sessions, job_id) == len(good)
    again = transact(sessions, lambda session: insert_each(session, job_id, found))
    assert again.positions == []
    assert again.errors.keys() == bad


@pytest.mark.usefixtures("picky")
@pytest.mark.parametrize("number", [1, 13])
def test_an_error_that_every_image_causes_is_about_none_of_them(sessions: Sessions, number: int) -> None:
    job_id = make_job(sessions)
    found = [make_image(f"bad {one}") for one in range(number)]
    with pytest.raises(psycopg.Error, match="picky"):
        transact(sessions, lambda session: insert_each(session, job_id, found))
    assert count(sessions, job_id) == 0


@pytest.mark.usefixtures("picky")
def test_an_outage_is_about_no_image(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    found = [make_image(name) for name in ("good", "full", "better")]
    with pytest.raises(OutageError, match="disk_full"):
        transact(sessions, lambda session: insert_each(session, job_id, found), pauses=())
    assert count(sessions, job_id) == 0

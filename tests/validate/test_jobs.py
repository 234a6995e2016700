"""Validation jobs on a real database and storage: rows, counters and results."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import factories
import ledger
import pytest
from doubles import WatchedStorage, query
from PIL import Image
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, findings, make_validation, results, valid_images, validate

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.chunks import ClaimState
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.errors import PermanentError, TransientError, UnknownJobError
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import finding_counts
from pixcrawler_worker.validate.kind import VALIDATION


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def good_images(count: int, *, prefix: str = "good") -> list[Planted]:
    """Return photographs without defects."""
    return [Planted(f"{prefix}-{at}.jpg", corpus.saved(view)) for at, view in enumerate(corpus.views()[:count])]


def crawl_of(runtime: Runtime, planted: list[Planted], **values: Any) -> int:
    """A crawl job that has ended with these images, and counts them."""
    job = validation_jobs.ended_crawl(runtime, **values)
    corpus.store(runtime, job, planted)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET valid_images = :n WHERE id = :id", n=len(planted), id=job)
    return job


BROKEN = Planted("broken.jpg", corpus.saved(corpus.views()[20])[:3000], recorded=False)
STRIP = Planted("strip.jpg", corpus.saved(corpus.views()[21].resize((900, 200))))


# Rows


def test_counters_status_and_log_say_what_was_found(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(4), BROKEN, STRIP])
    ref = validate(runtime, job)
    assert counted(runtime, ref) == ("completed", 100, 6, 5, 1)
    row = validation_jobs.row(runtime, ref)
    assert row.started_at
    assert row.completed_at
    assert row.error_message is None
    found = findings(runtime, ref)
    assert found["broken.jpg"] == {"decode": ["error", "corrupt", None]}
    assert found["strip.jpg"] == {"aspect_ratio": ["warn", 4.5, 3.0]}
    with runtime.sessions.begin() as session:
        events = [entry.action for entry in activity_log.latest(session, ref)]
        assert events == ["validation_job.completed", "validation_job.started"]
        assert finding_counts.counts(session, ref.id) == {"decode": 1, "aspect_ratio": 1}


def test_valid_images_of_the_crawl_job_follow_the_newest_completed_validation(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(4), BROKEN, STRIP])
    validate(runtime, job)
    assert valid_images(runtime, job) == 5
    second = make_validation(runtime, job, {"level": "strict"})
    messages = submission.start(runtime, VALIDATION, second.id)
    assert valid_images(runtime, job) == 5, "nothing is replaced until it completes"
    validation_jobs.drive(runtime, messages)
    assert valid_images(runtime, job) == 4, "warnings count now"
    validate(runtime, job, {"checks": {"decode": False}})
    assert valid_images(runtime, job) == 6
    assert counted(runtime, second)[0] == "completed", "its results still exist"
    assert len(results(runtime, second)) == 6
    assert query(runtime, "SELECT count(*) FROM images") == [(6,)], "a validation deletes nothing"


def test_the_mode_report_only_changes_nothing(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(2), BROKEN])
    ref = validate(runtime, job, {"mode": "report_only"})
    assert counted(runtime, ref) == ("completed", 100, 3, 2, 1)
    assert valid_images(runtime, job) == 3


def test_a_repair_of_counters_keeps_what_validations_found(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(2), BROKEN])
    validate(runtime, job)
    ledger.execute(
        runtime.sessions, "UPDATE crawl_jobs SET status = 'running', total_chunks = 7 WHERE id = :id", id=job
    )
    sweeper.sweep(runtime, JOB_KINDS.values())
    assert query(runtime, "SELECT total_chunks, valid_images FROM crawl_jobs") == [(0, 2)]


def test_images_without_facts_are_measured_and_recorded(runtime: Runtime) -> None:
    planted = [replace(one, recorded=False) for one in good_images(3)]
    job = crawl_of(runtime, planted, keywords=["cat"])
    ref = validate(runtime, job, {"level": "basic"})
    assert counted(runtime, ref) == ("completed", 100, 3, 3, 0)
    rows = query(runtime, "SELECT width, height, format, file_size FROM images ORDER BY id")
    assert rows == [(one.size[0], one.size[1], "jpg", len(corpus.saved(one))) for one in corpus.views()[:3]]
    assert query(runtime, "SELECT DISTINCT label, hash_version FROM pixcrawler.image_facts") == [("cat", 1)]
    again = validate(runtime, job, {"level": "basic"})
    assert counted(runtime, again) == ("completed", 100, 3, 3, 0)


def test_recorded_facts_are_validated_without_reading_files(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(3), replace(STRIP, name="gone.jpg", body=STRIP.body)])

    def never(key: str) -> None:
        raise AssertionError(f"{key} was read")

    blind = replace(runtime, storage=WatchedStorage(runtime, get=never))
    ref = make_validation(runtime, job, {"level": "basic"})
    validation_jobs.drive(blind, submission.start(blind, VALIDATION, ref.id))
    assert counted(runtime, ref) == ("completed", 100, 4, 4, 0)
    assert findings(runtime, ref)["gone.jpg"] == {"aspect_ratio": ["warn", 4.5, 3.0]}


def test_a_sample_has_the_requested_size_and_always_the_same_images(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(12))
    first, second = (validate(runtime, job, {"level": "basic", "sample": 5}) for _ in range(2))
    assert counted(runtime, first) == ("completed", 100, 5, 5, 0)
    assert [row[0] for row in results(runtime, first)] == [row[0] for row in results(runtime, second)]
    assert counted(runtime, validate(runtime, job, {"level": "basic", "sample": 99}))[2] == 12
    assert valid_images(runtime, job) == 12, "images that were not validated count as valid"


def test_the_valid_one_of_two_duplicates_is_kept(runtime: Runtime) -> None:
    body = corpus.saved(corpus.views()[0])
    job = crawl_of(runtime, [Planted("older.png", body, recorded=False), Planted("younger.jpg", body, recorded=False)])
    rules = {"checks": {"extension_match": {"severity": "error"}}}
    ref = validate(runtime, job, rules)
    found = findings(runtime, ref)
    assert set(found["younger.jpg"]) == set()
    assert set(found["older.png"]) == {"extension_match", "exact_duplicate"}
    assert counted(runtime, ref) == ("completed", 100, 2, 1, 1)


# Failures


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"checks": {"blury": True}}, "validation_rules.checks.blury: unknown option, did you mean 'blurry'?"),
        ([], "validation_rules: expected an object, got an array"),
        ({"classifiers": {"watermark": {}}}, "there is no classifier 'watermark'; known are nsfw, relevance"),
        (
            {"checks": {"decode": {"max_pixels": 60_000_000}}},
            (
                "validation_rules.checks.decode.max_pixels: 60000000 exceeds the limit of the worker, 50000000: "
                "lower it, or raise the setting PIXCRAWLER_MAX_IMAGE_PIXELS"
            ),
        ),
        (
            {"checks": {"decode": {"max_frames": 501}}},
            (
                "checks.decode.max_frames: 501 exceeds the limit of the worker, 500: "
                "lower it, or raise the setting PIXCRAWLER_MAX_IMAGE_FRAMES"
            ),
        ),
        (
            {"checks": {"decode": {"timeout_s": 20.5}}},
            (
                "checks.decode.timeout_s: 20.5 exceeds the limit of the worker, 20: "
                "lower it, or raise the setting PIXCRAWLER_DECODE_SECONDS"
            ),
        ),
    ],
)
def test_invalid_rules_fail_the_job_at_once(runtime: Runtime, rules: object, message: str) -> None:
    job = crawl_of(runtime, good_images(1))
    ref = make_validation(runtime, job, rules)
    assert submission.start(runtime, VALIDATION, ref.id) == []
    row = validation_jobs.row(runtime, ref)
    assert row.status == "failed"
    assert message in (row.error_message or "")
    assert row.completed_at
    assert valid_images(runtime, job) == 1


@pytest.mark.parametrize(
    "rules",
    [
        f'{{"checks": {"[" * 3000}{"]" * 3000}}}',
        f'{{"sample": {"9" * 5000}}}',
        f'{{"{"x" * 100_000}": 1}}',
        '{"level": {}, "checks": [[[[]]]], "sample": 1e400}',
    ],
    ids=["deep", "many digits", "long key", "odd types"],
)
def test_any_json_in_the_row_ends_the_job_with_a_short_message(runtime: Runtime, rules: str) -> None:
    job = crawl_of(runtime, good_images(1))
    ref = make_validation(runtime, job)
    ledger.execute(
        runtime.sessions,
        "UPDATE validation_jobs SET validation_rules = CAST(:rules AS jsonb) WHERE id = :id",
        rules=rules,
        id=ref.id,
    )
    assert submission.start(runtime, VALIDATION, ref.id) == []
    row = validation_jobs.row(runtime, ref)
    assert row.status == "failed"
    assert (row.error_message or "").startswith("validation_rules")
    assert len(row.error_message or "") < 300


def test_limits_of_the_worker_below_the_defaults_of_the_rules_fail_no_job(runtime: Runtime) -> None:
    settings = runtime.settings.model_copy(update={"max_image_pixels": 40_000_000, "max_image_frames": 7})
    limited = replace(runtime, settings=settings)
    job = crawl_of(runtime, good_images(1))
    for rules in ({}, {"checks": {"decode": True}}, {"checks": {"decode": {"max_frames": 7}}}):
        ref = make_validation(runtime, job, rules)
        assert submission.start(limited, VALIDATION, ref.id)


def test_a_crawl_job_without_images_has_nothing_to_validate(runtime: Runtime) -> None:
    job = validation_jobs.ended_crawl(runtime)
    ref = validate(runtime, job)
    assert validation_jobs.row(runtime, ref).error_message == f"crawl job {job} has no images to validate"
    assert counted(runtime, ref) == ("failed", 0, 0, 0, 0)


def test_the_images_of_a_running_crawl_are_validated_with_a_note(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(2), status="running")
    ref = validate(runtime, job)
    assert counted(runtime, ref) == ("completed", 100, 2, 2, 0)
    assert validation_jobs.row(runtime, ref).error_message == (
        f"crawl job {job} was still running: the 2 images that it had were validated"
    )


def test_rules_that_exclude_everything_leave_nothing_valid(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(3))
    ref = validate(runtime, job, {"min_width": 100_000})
    assert counted(runtime, ref) == ("completed", 100, 3, 0, 3)
    assert valid_images(runtime, job) == 0


def test_a_missing_changed_or_foreign_file_does_not_affect_other_images(runtime: Runtime) -> None:
    good = good_images(2)
    gone = Planted("gone.jpg", None, was=corpus.saved(corpus.views()[5]))
    changed = Planted("changed.jpg", corpus.saved(corpus.views()[6]), was=corpus.saved(corpus.views()[7]))
    elsewhere = Planted("elsewhere.jpg", corpus.saved(corpus.views()[8]))
    job = crawl_of(runtime, [*good, gone, changed, elsewhere])
    ledger.execute(
        runtime.sessions, "UPDATE images SET storage_url = 's3://other/x.jpg' WHERE filename = 'elsewhere.jpg'"
    )
    ref = validate(runtime, job)
    found = findings(runtime, ref)
    assert found["gone.jpg"] == {"decode": ["error", "missing", None]}
    assert found["elsewhere.jpg"] == {"decode": ["error", "missing", None]}
    assert set(found["changed.jpg"]) == {"content_hash"}
    assert counted(runtime, ref) == ("completed", 100, 5, 2, 3)


@pytest.mark.parametrize("path", ["../../outside.jpg", "crawl_jobs", "crawl_jobs/x.jpg/y.jpg", "a b.jpg", "", "."])
def test_a_row_without_a_file_in_the_storage_does_not_affect_other_images(runtime: Runtime, path: str) -> None:
    job = crawl_of(runtime, good_images(2))
    outside = Path(str(runtime.settings.storage()).removeprefix("file://")).parents[1] / "outside.jpg"
    outside.write_bytes(corpus.saved(corpus.views()[5]))
    ledger.execute(
        runtime.sessions,
        "UPDATE images SET storage_url = :url WHERE filename = 'good-1.jpg'",
        url=runtime.storage.url(path),
    )
    ref = validate(runtime, job)
    assert findings(runtime, ref)["good-1.jpg"] == {"decode": ["error", "missing", None]}
    assert counted(runtime, ref) == ("completed", 100, 2, 1, 1)


def test_a_storage_that_fails_half_way_is_retried(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(10))
    numbers = iter(range(10))

    def fail(key: str) -> None:
        if next(numbers, 99) == 5:
            raise TransientError(f"{key}: the storage is away")

    ref = make_validation(runtime, job)
    failing = replace(runtime, storage=WatchedStorage(runtime, get=fail))
    validation_jobs.drive(failing, submission.start(failing, VALIDATION, ref.id))
    assert counted(runtime, ref) == ("running", 0, 10, 0, 0)
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now()")
    validation_jobs.drive(runtime, sweeper.sweep(runtime, JOB_KINDS.values()).messages)
    assert counted(runtime, ref) == ("completed", 100, 10, 10, 0)


def test_a_storage_that_denies_access_fails_the_job_with_the_reason(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(2))

    def deny(key: str) -> None:
        raise PermanentError(f"{key} could not be read: access denied")

    ref = make_validation(runtime, job)
    barred = replace(runtime, storage=WatchedStorage(runtime, get=deny))
    validation_jobs.drive(barred, submission.start(barred, VALIDATION, ref.id))
    assert counted(runtime, ref)[0] == "failed"
    assert "access denied" in (validation_jobs.row(runtime, ref).error_message or "")
    assert valid_images(runtime, job) == 2


def test_images_of_failed_chunks_are_counted_in_a_note(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(8))
    ref = make_validation(runtime, job)
    with runtime.sessions.begin() as session:
        jobs.lock(session, ref)
    messages = submission.start(runtime, VALIDATION, ref.id)
    ids = [row[0] for row in query(runtime, "SELECT id FROM images ORDER BY id")]
    # Two chunks in place of one, as a larger job has them.
    with runtime.sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.add_chunks(session, ref, [{"first": ids[4], "last": ids[-1], "images": 4, "threshold": None}])
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET payload = payload || jsonb_build_object('last', :last, 'images', 4)"
        " WHERE id = :id",
        last=ids[3],
        id=messages[0].chunk_id,
    )
    held = ledger.claim(runtime.sessions, messages[0].chunk_id)
    with runtime.sessions.begin() as session:
        chunks.fail(session, held, error="the disk is on fire")
    validation_jobs.drive(runtime, sweeper.sweep(runtime, JOB_KINDS.values()).messages)
    assert counted(runtime, ref) == ("completed", 100, 4, 4, 0)
    assert validation_jobs.row(runtime, ref).error_message == "4 images could not be validated: the disk is on fire"


def test_images_beyond_the_time_budget_are_left_to_another_chunk(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(20), BROKEN])
    ref = make_validation(runtime, job)
    messages = submission.start(runtime, VALIDATION, ref.id)
    runs = 0
    while messages:
        (message,) = messages
        messages = executor.run(runtime, VALIDATION, message.chunk_id, limits=JobLimits(chunk_budget=timedelta(0)))
        runs += 1
    assert runs == 3, "sixteen at a time, and the comparison"
    assert counted(runtime, ref) == ("completed", 100, 21, 20, 1)
    assert [row[1:3] for row in results(runtime, ref)] == [row[1:3] for row in results(runtime, validate(runtime, job))]


# Twice, late, and at once


def test_starting_twice_and_every_message_twice_changes_nothing(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(6), BROKEN])
    once = validate(runtime, job)
    twice = make_validation(runtime, job)
    messages = submission.start(runtime, VALIDATION, twice.id)
    assert submission.start(runtime, VALIDATION, twice.id) == []
    validation_jobs.drive(runtime, [*messages, *messages])
    validation_jobs.drive(runtime, messages)
    assert submission.conclude(runtime, VALIDATION, twice.id) == []
    assert [row[1:3] for row in results(runtime, twice)] == [row[1:3] for row in results(runtime, once)]
    assert counted(runtime, twice) == counted(runtime, once)


def test_a_missing_job_is_an_error(runtime: Runtime) -> None:
    with pytest.raises(UnknownJobError, match="there is no validation job 424242"):
        submission.start(runtime, VALIDATION, 424242)
    assert submission.conclude(runtime, VALIDATION, 424242) == []
    assert executor.run(runtime, VALIDATION, 424242) == []


def test_a_chunk_of_a_crawl_is_not_run_as_one_of_a_validation(runtime: Runtime) -> None:
    ref = factories.start_job(runtime.sessions)
    (chunk_id,) = ledger.ids_of(runtime.sessions, ref)
    assert executor.run(runtime, VALIDATION, chunk_id) == []
    assert ledger.states_of(runtime.sessions, ref) == ["queued"]


def delete_crawl(runtime: Runtime, ref: JobRef) -> None:
    ledger.execute(
        runtime.sessions,
        "DELETE FROM crawl_jobs WHERE id = (SELECT crawl_job_id FROM validation_jobs WHERE id = :id)",
        id=ref.id,
    )


def delete_validation(runtime: Runtime, ref: JobRef) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM validation_jobs WHERE id = :id", id=ref.id)


@pytest.mark.parametrize("delete", [delete_crawl, delete_validation])
def test_a_job_that_is_deleted_while_it_runs_leaves_nothing(
    runtime: Runtime, delete: Callable[[Runtime, JobRef], None]
) -> None:
    job = crawl_of(runtime, good_images(4))
    ref = make_validation(runtime, job)
    reads = iter(range(100))

    def strike(_key: str) -> None:
        if next(reads) == 2:
            delete(runtime, ref)

    struck = replace(runtime, storage=WatchedStorage(runtime, get=strike))
    validation_jobs.drive(struck, submission.start(struck, VALIDATION, ref.id))
    assert query(runtime, "SELECT count(*) FROM pixcrawler.verdicts") == [(0,)]
    assert query(runtime, "SELECT count(*) FROM pixcrawler.chunks") == [(0,)]
    assert sweeper.sweep(runtime, JOB_KINDS.values()).idle


def test_an_image_that_is_deleted_meanwhile_is_not_counted(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*good_images(4), BROKEN])
    ref = make_validation(runtime, job)
    messages = submission.start(runtime, VALIDATION, ref.id)
    ledger.execute(runtime.sessions, "DELETE FROM images WHERE filename IN ('good-1.jpg', 'broken.jpg')")
    validation_jobs.drive(runtime, messages)
    assert counted(runtime, ref) == ("completed", 100, 3, 3, 0)
    assert valid_images(runtime, job) == 3


def test_a_requested_job_whose_message_was_lost_is_started_by_the_sweep(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(2))
    ref, unasked = make_validation(runtime, job), make_validation(runtime, job)
    ledger.execute(
        runtime.sessions,
        "INSERT INTO pixcrawler.validation_plans (validation_job_id, requested_at)"
        " VALUES (:id, now() - interval '1 hour')",
        id=ref.id,
    )
    swept = sweeper.sweep(runtime, JOB_KINDS.values())
    assert [message.queue for message in swept.messages] == ["validation"]
    validation_jobs.drive(runtime, swept.messages)
    assert counted(runtime, ref)[0] == "completed"
    assert counted(runtime, unasked)[0] == "pending"


def test_a_conclusion_that_was_lost_is_made_by_the_sweep(runtime: Runtime) -> None:
    job = crawl_of(runtime, good_images(2))
    ref = make_validation(runtime, job)
    (message,) = submission.start(runtime, VALIDATION, ref.id)
    held = ledger.claim(runtime.sessions, message.chunk_id)
    with runtime.sessions.begin() as session:
        assert chunks.lock_claim(session, held) is ClaimState.VALID
        chunks.finish(session, held, result={"counts": {}, "images": 0}, gains={})
    for _ in range(3):
        validation_jobs.drive(runtime, sweeper.sweep(runtime, JOB_KINDS.values()).messages)
    assert counted(runtime, ref)[0] == "completed"


# Untrusted bytes


def test_thousands_of_mutated_images_each_get_a_result(runtime: Runtime) -> None:
    chance = random.Random(4)
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]
    small = [view.resize((120, 90)) for view in corpus.views()[:6]]
    whole = [corpus.saved(view, kind) for view in small for kind in kinds]

    def mutated() -> bytes:
        body = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 8)):
            match chance.randint(0, 4):
                case 0:
                    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
                case 1:
                    del body[chance.randrange(len(body)) :]
                case 2:
                    body[: chance.randrange(1, 64)] = chance.choice(whole)[: chance.randrange(1, 64)]
                case 3:
                    at = chance.randrange(len(body))
                    body[at : at + 8] = chance.randbytes(chance.randint(0, 16))
                case _:
                    body[len(body) // 2 :] = chance.choice(whole)[len(body) // 2 :]
            body = body or bytearray(b"x")
        return bytes(body)

    job = validation_jobs.ended_crawl(runtime)
    bodies = [mutated() for _ in range(3000)]
    keys = [f"crawl_jobs/{job}/cat/{at}.jpg" for at in range(len(bodies))]

    async def store() -> None:
        for key, body in zip(keys, bodies, strict=True):
            await runtime.storage.put(key, body)

    runtime.run(store())
    ledger.execute(
        runtime.sessions,
        "INSERT INTO images (crawl_job_id, original_url, filename, storage_url) SELECT :job, url, 'a.jpg', url"
        " FROM unnest(CAST(:urls AS text[])) AS url",
        job=job,
        urls=[runtime.storage.url(key) for key in keys],
    )
    ref = validate(runtime, job, {"level": "strict", "mode": "lenient"})
    status, _, total, valid, invalid = counted(runtime, ref)
    assert (status, total) == ("completed", 3000)
    assert valid + invalid == 3000
    assert invalid > 1000
    unexplained = (
        "SELECT count(*) FROM pixcrawler.verdicts WHERE NOT valid AND NOT EXISTS"
        " (SELECT FROM jsonb_array_elements(findings) AS found WHERE found->>1 = 'error')"
    )
    assert query(runtime, unexplained) == [(0,)]
    assert query(runtime, "SELECT count(*) FROM pixcrawler.chunks WHERE state <> 'completed'") == [(0,)]


# Classifiers


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two classifiers, as pip leaves one."""
    about = tmp_path / "scorers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: scorers\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[pixcrawler.classifiers]\nredness = scorers:redness\nbroken = scorers:broken\nabsent = scorers:absent\n"
    )
    (tmp_path / "scorers.py").write_text(
        "import io\nfrom PIL import Image, ImageStat\n"
        "def redness(jpeg):\n"
        "    image = Image.open(io.BytesIO(jpeg))\n"
        "    assert image.format == 'JPEG' and max(image.size) <= 256\n"
        "    red, green, blue = ImageStat.Stat(image).mean\n"
        "    return red - (green + blue) / 2\n"
        "def broken(jpeg):\n    raise TypeError('no model\\x00')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_classifiers_run_and_their_bugs_prevent_no_result(runtime: Runtime, installed: None) -> None:
    red, blue = (Planted(f"{name}.jpg", corpus.saved(Image.new("RGB", (400, 300), name))) for name in ("red", "blue"))
    job = crawl_of(runtime, [red, blue, BROKEN])
    rules = {
        "level": "basic",
        "classifiers": {"redness": {"severity": "error", "score_above": 100}, "broken": {"severity": "info"}},
    }
    ref = validate(runtime, job, rules)
    found = findings(runtime, ref)
    assert found["red.jpg"]["redness"][0] == "error"
    assert found["red.jpg"]["redness"][1] > 200
    assert "redness" not in found["blue.jpg"]
    assert found["blue.jpg"]["broken"] == ["info", "failed: TypeError: no model", None]
    assert counted(runtime, ref) == ("completed", 100, 3, 2, 1)
    unloadable = validate(runtime, job, {"classifiers": {"absent": {}}})
    assert counted(runtime, unloadable)[0] == "failed"
    message = validation_jobs.row(runtime, unloadable).error_message or ""
    assert "classifier 'absent' cannot be loaded from scorers:absent" in message

"""One image of a validation costs its neighbors nothing: whatever it raises, and however long it takes."""

import asyncio
import itertools
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ledger
import pytest
import structlog
from doubles import WatchedStorage, query
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, findings, make_validation, results, valid_images, validate

from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import Image as ImageRow
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.errors import OutageError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import File
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.classifiers import Scorer
from pixcrawler_worker.validate.kind import VALIDATION

Answer = tuple[ImageFacts, Metrics]


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> Iterator[None]:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    # A traceback on the console takes longer than everything else here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def small_images(count: int, *, first: int = 0) -> list[Planted]:
    """Return different images that are quickly decoded."""
    chance = random.Random(first)
    noise = [Image.frombytes("RGB", (80, 70), chance.randbytes(80 * 70 * 3)) for _ in range(count)]
    return [Planted(f"{first + at}.jpg", corpus.saved(one), recorded=False) for at, one in enumerate(noise)]


def crawl_of(runtime: Runtime, planted: list[Planted]) -> int:
    job = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, job, planted)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET valid_images = :n WHERE id = :id", n=len(planted), id=job)
    return job


class OddDecoder(Decoder):
    """A decoder that passes what it measured through a function of the file's number."""

    def __init__(self, planted: list[Planted], answer: Callable[[int, Answer], Coroutine[Any, Any, Answer]]) -> None:
        super().__init__(Limits())
        self._numbers = {one.body: at for at, one in enumerate(planted)}
        self._answer = answer

    async def measure(self, body: bytes | File, *, strict: bool = False, seconds: float = math.inf) -> Answer:
        content = os.pread(body.descriptor, 1 << 24, 0) if isinstance(body, File) else body
        return await self._answer(self._numbers[content], await super().measure(body, strict=strict, seconds=seconds))


def validate_with(runtime: Runtime, decoder: Decoder, job: int, rules: object = None) -> JobRef:
    ref = make_validation(runtime, job, rules)
    odd = replace(runtime, decoder=decoder)
    try:
        validation_jobs.drive(odd, submission.start(odd, VALIDATION, ref.id))
    finally:
        runtime.run(decoder.aclose())
    return ref


def check_each_has_one_result(runtime: Runtime, ref: JobRef, total: int) -> None:
    """Assert that the job is complete, with one result for each image, and its counters are exact."""
    status, progress, images, valid, invalid = counted(runtime, ref)
    errors = query(runtime, "SELECT error FROM pixcrawler.chunks WHERE error IS NOT NULL")
    assert (status, progress, images, errors) == ("completed", 100, total, [])
    assert Counter(row[1] for row in results(runtime, ref)) == +Counter({True: valid, False: invalid})


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS = [KeyError("bands"), MemoryError(), OverflowError(), UnicodeError("x"), UnprintableError(), RecursionError()]


@pytest.mark.parametrize(
    ("error", "mode"),
    [*((error, "strict") for error in ERRORS), (ERRORS[0], "lenient")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_bug_that_one_image_meets_is_its_finding_and_does_not_make_it_invalid(
    runtime: Runtime, error: Exception, mode: str
) -> None:
    planted = small_images(6)
    job = crawl_of(runtime, planted)

    async def answer(number: int, measured: Answer) -> Answer:
        if number in {2, 4}:
            raise error
        return measured

    rules = {"mode": mode, "checks": {"blurry": False, "near_duplicate": True}}
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as logs:
        ref = validate_with(runtime, OddDecoder(planted, answer), job, rules)
    check_each_has_one_result(runtime, ref, 6)
    assert counted(runtime, ref)[3:] == (6, 0)
    assert valid_images(runtime, job) == 6
    found = findings(runtime, ref)
    line = type(error).__name__ + {"KeyError": ": 'bands'", "UnicodeError": ": x"}.get(type(error).__name__, "")
    bug = {"internal_error": ["info", line, None]}
    assert found == {one.name: bug if at in {2, 4} else {} for at, one in enumerate(planted)}
    assert validation_jobs.row(runtime, ref).error_message == (
        "2 images met an internal error and were not checked completely: see the worker's log"
    )
    tracebacks = [line["exc_info"] for line in logs if "internal error" in line["event"]]
    assert tracebacks == [error, None], "one traceback for a kind of bug"


def test_when_this_machine_has_run_out_of_something_no_image_is_to_blame(runtime: Runtime) -> None:
    planted = small_images(4)
    job = crawl_of(runtime, planted)

    async def answer(number: int, measured: Answer) -> Answer:
        if number == 2:
            raise OSError(24, "Too many open files")
        return measured

    ref = validate_with(runtime, OddDecoder(planted, answer), job)
    assert counted(runtime, ref)[0] == "running"
    assert query(runtime, "SELECT state, error FROM pixcrawler.chunks") == [
        ("queued", "OSError: [Errno 24] Too many open files")
    ]


ODD: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from([None, True, "", "\x00", "\ud800", "x" * 5000, [], {}, b"", b"\x00" * 32, b"x" * 31]),
)
FIELDS = [("facts", name) for name in ImageFacts.__slots__] + [("metrics", name) for name in Metrics.__slots__]
SLOW = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # an example is a whole job: making it smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOW
@given(odd=st.lists(st.tuples(st.sampled_from(FIELDS), ODD), min_size=8, max_size=8))
def test_whatever_is_measured_of_an_image_its_neighbors_keep_their_results(
    runtime: Runtime, odd: list[tuple[tuple[str, str], Any]]
) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    planted = small_images(10)
    job = crawl_of(runtime, planted)

    async def answer(number: int, measured: Answer) -> Answer:
        facts, metrics = measured
        if number >= len(odd):
            return measured
        (kind, name), value = odd[number]
        return (
            (replace(facts, **{name: value}), metrics)
            if kind == "facts"
            else (facts, replace(metrics, **{name: value}))
        )

    ref = validate_with(
        runtime, OddDecoder(planted, answer), job, {"checks": {"near_duplicate": True, "odd_size": {"min_images": 2}}}
    )
    check_each_has_one_result(runtime, ref, 10)
    found = findings(runtime, ref)
    assert all("internal_error" not in found[one.name] for one in planted[8:])


ROWS = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.sampled_from(["", ".", "a" * 255, "\u202e\u200b.jpg", "../../x", "\x01\n"]),
        "original_url": st.sampled_from(["", "http://[::1]@/x.jpg", "http://xn--\u0131/", "\ufffd" * 300, "%00"]),
        "storage_url": st.sampled_from([None, "", "file://", "s3://x/y", "\u202e"]),
        "width": st.sampled_from([None, 0, -1, 2**31 - 1, -(2**31)]),
        "height": st.sampled_from([None, 0, -1, 2**31 - 1, -(2**31)]),
        "file_size": st.sampled_from([None, 0, -1, 2**31 - 1, -(2**31)]),
        "format": st.sampled_from([None, "", "JPEG", "exe", "\u00e9" * 10]),
    },
)
BODIES = st.one_of(
    st.none(), st.binary(max_size=64), st.sampled_from([b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
)


@SLOW
@given(
    rows=st.lists(st.tuples(ROWS, BODIES), min_size=6, max_size=6),
    levels=st.permutations(["basic", "standard"]),
)
def test_whatever_a_row_and_its_file_hold_its_neighbors_keep_their_results(
    runtime: Runtime, rows: list[tuple[dict[str, Any], bytes | None]], levels: list[str]
) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    planted = small_images(6 + len(rows))
    job = crawl_of(runtime, planted)
    ids = [row[0] for row in query(runtime, "SELECT id FROM images ORDER BY id")]
    for image_id, one, (values, body) in zip(ids, planted, rows, strict=False):
        with runtime.sessions.begin() as session:
            for name, value in values.items():
                setattr(session.get_one(ImageRow, image_id), name, value)
        if body is not None:
            runtime.run(runtime.storage.put(f"crawl_jobs/{job}/cat/{one.name}", body))
    for level in levels:
        ref = validate(runtime, job, {"level": level})
        status, _, total, valid, invalid = counted(runtime, ref)
        assert (status, total) == ("completed", len(planted))
        assert valid + invalid == total
        rows_of = query(
            runtime,
            "SELECT valid FROM pixcrawler.verdicts WHERE validation_job_id = :id AND image_id > :last",
            id=ref.id,
            last=ids[len(rows) - 1],
        )
        assert rows_of == [(True,)] * 6
        assert "internal_error" not in str(findings(runtime, ref))


# Storage


def deny(numbers: set[int], error: Callable[[str], Exception]) -> Callable[[str], None]:
    def denied(key: str) -> None:
        name = key.rpartition("/")[2].removesuffix(".jpg")
        if int(name) in numbers:
            raise error(key)

    return denied


def damaged(key: str) -> OutageError:
    return OutageError(f"{key} could not be read: Input/output error", may_be_one_file=True)


def test_a_file_that_the_storage_cannot_read_is_the_finding_of_its_image(runtime: Runtime) -> None:
    job = crawl_of(runtime, small_images(5))
    ref = make_validation(runtime, job)
    odd = replace(runtime, storage=WatchedStorage(runtime, get=deny({1}, damaged)))
    validation_jobs.drive(odd, submission.start(odd, VALIDATION, ref.id))
    check_each_has_one_result(runtime, ref, 5)
    assert findings(runtime, ref)["1.jpg"] == {"decode": ["error", "unreadable", None]}


def test_the_only_file_of_a_chunk_is_to_blame_when_the_storage_can_read_another(runtime: Runtime) -> None:
    job = crawl_of(runtime, small_images(2))
    ref = make_validation(runtime, job, {"sample": 1})
    sampled = submission.start(runtime, VALIDATION, ref.id)
    odd = replace(runtime, storage=WatchedStorage(runtime, get=deny({0, 1}, damaged)))
    validation_jobs.drive(odd, sampled)
    assert counted(runtime, ref)[0] == "running", "it can read none: that is an outage"
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now()")
    (image_id,) = query(runtime, "SELECT id FROM images ORDER BY hashint8extended(id, 0) LIMIT 1")[0]
    ((name,),) = query(runtime, "SELECT filename FROM images WHERE id = :id", id=image_id)
    odd = replace(runtime, storage=WatchedStorage(runtime, get=deny({int(name.removesuffix(".jpg"))}, damaged)))
    validation_jobs.drive(odd, sampled)
    assert counted(runtime, ref) == ("completed", 100, 1, 0, 1)


@pytest.mark.parametrize(("last", "expected"), [(4, ("completed", 100, 5, 5, 0)), (1000, ("running", 0, 5, 0, 0))])
def test_denied_access_that_begins_within_a_chunk_is_no_finding(
    runtime: Runtime, last: int, expected: tuple[Any, ...]
) -> None:
    reads = itertools.count()

    def denied(key: str) -> None:
        if 1 < next(reads) <= last:
            raise damaged(key)

    job = crawl_of(runtime, small_images(5))
    ref = make_validation(runtime, job)
    odd = replace(runtime, storage=WatchedStorage(runtime, get=denied))
    validation_jobs.drive(odd, submission.start(odd, VALIDATION, ref.id))
    assert counted(runtime, ref) == expected
    assert "unreadable" not in str(findings(runtime, ref))


def test_an_outage_of_the_storage_is_no_finding(runtime: Runtime) -> None:
    job = crawl_of(runtime, small_images(5))
    ref = make_validation(runtime, job)
    odd = replace(runtime, storage=WatchedStorage(runtime, get=deny({3}, lambda _: OutageError("503 SlowDown"))))
    validation_jobs.drive(odd, submission.start(odd, VALIDATION, ref.id))
    assert counted(runtime, ref) == ("running", 0, 5, 0, 0)
    assert query(runtime, "SELECT state, error FROM pixcrawler.chunks") == [("queued", "503 SlowDown")]


# Time


def drive_within(runtime: Runtime, messages: list[ChunkMessage], limits: JobLimits) -> int:
    """Run chunks and those that follow, retries too, at once; return how many ran."""
    runs = 0
    while messages:
        runs += 1
        messages.extend(executor.run(runtime, VALIDATION, messages.pop(0).chunk_id, limits=limits))
        if not messages:
            ledger.execute(
                runtime.sessions,
                "UPDATE pixcrawler.chunks SET available_at = now(), dispatched_at = NULL WHERE state = 'queued'",
            )
            messages = list(sweeper.sweep(runtime, JOB_KINDS.values()).messages)
    return runs


def limits_of(budget: float, deadline: float) -> JobLimits:
    return JobLimits(chunk_budget=timedelta(seconds=budget), chunk_deadline=timedelta(seconds=deadline))


def test_a_slow_decoder_costs_time_and_no_image_is_decoded_twice(runtime: Runtime) -> None:
    planted = small_images(60)
    job = crawl_of(runtime, planted)
    decoded: Counter[int] = Counter()
    one_at_a_time = asyncio.Lock()

    async def answer(number: int, measured: Answer) -> Answer:
        async with one_at_a_time:
            decoded[number] += 1
            await asyncio.sleep(0.02)
        return measured

    ref = make_validation(runtime, job)
    odd = replace(runtime, decoder=OddDecoder(planted, answer))
    messages = submission.start(odd, VALIDATION, ref.id)
    # All of them take 1.2 s: more than one chunk may.
    runs = drive_within(odd, messages, limits_of(0.2, 30.0))
    runtime.run(odd.decoder.aclose())
    check_each_has_one_result(runtime, ref, 60)
    assert set(decoded.values()) == {1}
    assert runs >= 4
    assert query(runtime, "SELECT max(attempt) FROM pixcrawler.chunks") == [(1,)]


def test_an_image_that_takes_for_ever_is_left_alone_with_its_chunk(runtime: Runtime) -> None:
    planted = small_images(20)
    job = crawl_of(runtime, planted)
    decoded: Counter[int] = Counter()

    async def answer(number: int, measured: Answer) -> Answer:
        decoded[number] += 1
        if number == 5:
            await asyncio.sleep(3600)
        return measured

    ref = make_validation(runtime, job)
    odd = replace(runtime, decoder=OddDecoder(planted, answer))
    messages = submission.start(odd, VALIDATION, ref.id)
    messages = executor.run(odd, VALIDATION, messages[0].chunk_id, limits=limits_of(3.0, 5.0))
    assert len(results(runtime, ref)) == 19, "the others have their results after the first chunk"
    drive_within(odd, messages, limits_of(0.1, 0.3))
    runtime.run(odd.decoder.aclose())
    assert counted(runtime, ref) == ("completed", 100, 19, 19, 0)
    assert validation_jobs.row(runtime, ref).error_message == (
        "1 images could not be validated: the chunk took longer than 0 s"
    )
    assert {number: count for number, count in decoded.items() if count > 1} == {5: 6}
    assert valid_images(runtime, job) == 20


# Classifiers


class HostileFloat:
    def __float__(self) -> float:
        raise SystemExit(3)


def raising(error: BaseException) -> Callable[[bytes], Any]:
    def classify(_jpeg: bytes) -> Any:
        raise error

    return classify


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize(
    ("classify", "expected"),
    [
        (lambda _: 0.25, 0.25),
        (lambda _: math.nan, "failed: returned nan"),
        (lambda _: math.inf, "failed: returned inf"),
        (lambda _: "-inf", "failed: returned -inf"),
        (lambda _: None, "failed: TypeError: float() argument must be a string or a real number, not 'NoneType'"),
        (lambda _: [0.5], "failed: TypeError: float() argument must be a string or a real number, not 'list'"),
        (lambda _: 10**400, "failed: OverflowError: int too large to convert to float"),
        (lambda _: HostileFloat(), "failed: SystemExit: 3"),
        (raising(SystemExit()), "failed: SystemExit"),
        (raising(KeyboardInterrupt()), "failed: KeyboardInterrupt"),
        (raising(asyncio.CancelledError()), "failed: CancelledError"),
        (raising(GeneratorExit()), "failed: GeneratorExit"),
        (raising(StopIteration()), "failed: StopIteration"),
        (raising(OutageError("the storage")), "failed: OutageError: the storage"),
        (raising(UnprintableError()), "failed: UnprintableError"),
        (raising(ValueError("\n" + "x" * 5000)), "failed: ValueError: " + "x" * 188),
        (None, "failed: TypeError: 'NoneType' object is not callable"),
    ],
)
def test_whatever_a_classifier_does_is_the_finding_of_the_image(
    loop: asyncio.AbstractEventLoop, classify: Any, expected: float | str
) -> None:
    async def score() -> tuple[float | str, float | str]:
        scorer = Scorer(classify, seconds=5)
        try:
            return await scorer.score(b"one"), await scorer.score(b"two")
        finally:
            scorer.close()

    assert loop.run_until_complete(score()) == (expected, expected)


def spin(jpeg: bytes) -> float:
    while jpeg == b"slow":
        pass
    return 0.5


def test_a_classifier_that_hangs_is_stopped_and_the_next_images_have_their_scores(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def score() -> list[float | str]:
        scorer = Scorer(spin, seconds=0.2)
        try:
            return [await scorer.score(jpeg) for jpeg in (b"a", b"slow", b"b", b"slow", b"slow", b"c")]
        finally:
            scorer.close()

    late, given_up = "failed: no answer within 0.2 s", "failed: not called, because it did not answer for 3 images"
    assert loop.run_until_complete(score()) == [0.5, late, 0.5, late, late, given_up]
    end = time.monotonic() + 10
    while any(thread.name == "classifier" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread is left behind"
        time.sleep(0.01)


def test_the_time_of_a_classifier_is_a_tenth_of_what_a_chunk_has() -> None:
    assert LIMITS.chunk_budget.total_seconds() * 0.1 * 3 < LIMITS.chunk_budget.total_seconds()

"""What the crawl has measured is used for unchanged bytes, with the findings that decoding them again would give."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ledger
import pytest
from inspection import samples
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, findings, make_validation, results

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import File
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime, image_limits
from pixcrawler_worker.validate.kind import VALIDATION

JPEG = samples.encoded(samples.scene(320, 240), "JPEG")


class CountingDecoder(Decoder):
    """A decoder that counts what it measures."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.measured = 0

    async def measure(
        self, body: bytes | File, *, strict: bool = False, seconds: float = math.inf
    ) -> tuple[ImageFacts, Metrics]:
        self.measured += 1
        return await super().measure(body, strict=strict, seconds=seconds)


def validate(runtime: Runtime, crawl_job_id: int, rules: object = None) -> tuple[JobRef, int]:
    """Run a validation job to its end; return it, and how many images were decoded."""
    ref = make_validation(runtime, crawl_job_id, rules)
    decoder = CountingDecoder(image_limits(runtime.settings))
    counting = replace(runtime, decoder=decoder)
    try:
        validation_jobs.drive(counting, submission.start(counting, VALIDATION, ref.id))
    finally:
        runtime.run(decoder.aclose())
    assert counted(runtime, ref)[:2] == ("completed", 100)
    return ref, decoder.measured


def odd() -> list[Planted]:
    """Images of every kind, and of every defect."""
    variants = [
        Planted(f"{name}.{name.partition('-')[0]}", samples.variant(name), was=samples.variant(name))
        for name in samples.VARIANTS
    ]
    modes = [
        Planted(f"mode-{mode}.{kind.lower()}", samples.encoded(samples.scene(300, 200).convert(mode), kind))
        for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("F", "TIFF"))
    ]
    shapes = [
        Planted(f"{width}x{height}.jpg", samples.encoded(samples.scene(width, height), "JPEG", progressive=True))
        for width, height in ((17, 900), (900, 17), (2000, 300), (129, 129), (258, 257))
    ]
    damaged = bytearray(JPEG)
    damaged[len(JPEG) // 2 : len(JPEG) // 2 + 20] = b"\xff\xd3" * 10
    more = [Planted("damaged.jpg", bytes(damaged)), Planted("trailing.jpg", JPEG + b"\xff\xd8 more")]
    return [*corpus.defective(), *variants, *modes, *shapes, *more]


def named(runtime: Runtime, ref: JobRef, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the findings of a job by the names of files, with names in place of ids."""
    names = {image_id: name for name, image_id in ids.items()}
    return {
        name: {
            # Of a duplicate, the id of the image that is kept; a limit after it may be the same number.
            check: [severity, names[found], *limit] if check.endswith("duplicate") else [severity, found, *limit]
            for check, (severity, found, *limit) in checks.items()
        }
        for name, checks in findings(runtime, ref).items()
    }


def test_findings_and_measurements_are_those_of_decoding_again(runtime: Runtime) -> None:
    rules = {"level": "standard", "mode": "strict", "checks": {"near_duplicate": {}}}
    planted = odd()
    jobs = [validation_jobs.ended_crawl(runtime) for _ in range(2)]
    ids = [corpus.store(runtime, job, planted, measured=bool(at)) for at, job in enumerate(jobs)]
    (before, all_decoded), (after, decoded) = (validate(runtime, job, rules) for job in jobs)
    assert named(runtime, before, ids[0]) == named(runtime, after, ids[1])
    # Valid, findings aside: digest, hashes and metrics of each image, and the one that is kept in its place.
    pairs = zip(results(runtime, before), results(runtime, after), strict=True)
    for (image, valid, _, *old, keeper), (other, still_valid, _, *new, other_keeper) in pairs:
        assert (valid, old) == (still_valid, new)
        assert keeper == other_keeper or keeper - image == other_keeper - other
    assert counted(runtime, before) == counted(runtime, after)
    # What is damaged, missing, changed, foreign, or of a format whose decoder may be gone is decoded in both.
    again = [
        one
        for one in planted
        if not one.recorded or one.body != (one.was or one.body) or one.name.endswith((".heic", ".jxl"))
    ]
    assert all_decoded > decoded
    assert decoded <= len(again)


@pytest.fixture
def measured(runtime: Runtime) -> int:
    """A crawl job with an image that the crawl has measured."""
    job = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, job, [Planted("a.jpg", JPEG)], measured=True)
    return job


def test_an_image_that_is_what_it_was_is_not_decoded(runtime: Runtime, measured: int) -> None:
    assert validate(runtime, measured)[1] == 0
    # Two validations of it, one after the other, find the same.
    assert validate(runtime, measured)[1] == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE pixcrawler.image_facts SET metrics_version = 0",
        "UPDATE pixcrawler.image_facts SET metrics_version = NULL",
        "UPDATE pixcrawler.image_facts SET hash_version = 1",
        "UPDATE pixcrawler.image_facts SET metrics = NULL",
        "UPDATE pixcrawler.image_facts SET metrics = '[]'",
        "UPDATE pixcrawler.image_facts SET metrics = metrics - 'entropy'",
        """UPDATE pixcrawler.image_facts SET metrics = metrics || '{"entropy": "7"}'""",
        """UPDATE pixcrawler.image_facts SET metrics = metrics || '{"gps": 0}'""",
        """UPDATE pixcrawler.image_facts SET metrics = metrics || '{"more": 0}'""",
        "UPDATE images SET width = 319",
        "UPDATE images SET format = 'png'",
        "UPDATE images SET file_size = file_size - 1",
        "UPDATE images SET height = NULL",
        "DELETE FROM pixcrawler.image_facts",
    ],
)
def test_a_row_of_another_version_or_program_is_decoded(runtime: Runtime, measured: int, change: str) -> None:
    ledger.execute(runtime.sessions, change)
    ref, decoded = validate(runtime, measured)
    assert decoded == 1
    assert counted(runtime, ref)[3:] == (1, 0)


@pytest.mark.parametrize(
    "rules",
    [
        {"level": "strict"},
        {"checks": {"strict_jpeg": {}}},
        {"checks": {"decode": {"timeout_s": 5}}},
    ],
    ids=["strict", "strict_jpeg", "less time"],
)
def test_rules_that_need_more_than_a_crawl_measures_decode(runtime: Runtime, measured: int, rules: object) -> None:
    assert validate(runtime, measured, rules)[1] == 1


@pytest.mark.parametrize("change", [lambda body: body + b"\0", lambda body: body[:-1] + b"\0", lambda body: body[:0]])
def test_changed_bytes_are_decoded(runtime: Runtime, measured: int, change: Callable[[bytes], bytes]) -> None:
    runtime.run(runtime.storage.put(f"crawl_jobs/{measured}/cat/a.jpg", change(JPEG)))
    ref, decoded = validate(runtime, measured)
    assert decoded == 1
    assert "content_hash" in findings(runtime, ref)["a.jpg"]


def test_an_image_that_exceeds_limits_that_were_lowered_is_decoded(runtime: Runtime, measured: int) -> None:
    lowered = replace(runtime, settings=runtime.settings.model_copy(update={"max_image_pixels": 320 * 240 - 1}))
    ref, decoded = validate(lowered, measured)
    assert decoded == 1
    assert "decode" in findings(runtime, ref)["a.jpg"]

"""Running one chunk: validate a range of images, or compare all images of the job with each other."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.db import images, validation_results
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validation_results import ComparisonResult, ValidationResult
from pixcrawler_worker.domain.checks import Check, CheckedImage, Finding, Metrics, Mode, is_valid, run_checks
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.labels import default_label
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.decoder import File
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.failures import FileMissingError
from pixcrawler_worker.validate import classifiers, duplicates, planner
from pixcrawler_worker.validate.classifiers import Classifier
from pixcrawler_worker.validate.payloads import CompareTask, ImagesTask, ValidationChunkResult, task_of
from pixcrawler_worker.validate.rules import (
    Decode,
    ExactDuplicate,
    FileSize,
    LowInformation,
    NearDuplicate,
    OddSize,
    Uniform,
    ValidationRules,
)

#: Version of the hashes of images that were measured; inspected images have `images.HASH_VERSION`.
_MEASURED_HASHES = 2
#: Files that are read at a time, while others are decoded.
_CONCURRENT_READS = 16
#: Value of the finding `decode` for files that are missing.
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ValidationWork:
    """A claimed chunk with what it needs of the job.

    Attributes:
        claim: of the chunk.
        task: its payload.
        crawl_job_id: whose images are validated.
        rules: of the job.
        label: of images without one.
        images: the images of the range; none for the chunk that compares.
    """

    claim: Claim
    task: ImagesTask | CompareTask
    crawl_job_id: int
    rules: ValidationRules
    label: str
    images: Sequence[ImageRecord]


@dataclass(frozen=True, slots=True)
class Validated:
    """The work of a chunk.

    Attributes:
        results: of the images that were validated.
        measured: facts of images whose rows had none.
        compared: what comparing all images adds to their results.
        left: id of the first image that there was no time for; None when there was time for all.
    """

    results: Sequence[ValidationResult] = ()
    measured: Sequence[tuple[ImageRecord, ImageFacts]] = ()
    compared: Sequence[ComparisonResult] = ()
    left: int | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read from the file of an image."""

    sha256: bytes | None = None
    facts: ImageFacts | None = None
    metrics: Metrics | None = None
    broken: str | None = None
    body: bytes = b""


def prepare(runtime: Runtime, session: Session, claim: Claim) -> ValidationWork:
    """Read the rules, and the images of the chunk as their rows have them."""
    del runtime
    request, rules = planner.rules_of(session, claim.job.id)
    task = task_of(claim.payload)
    found: list[ImageRecord] = []
    if isinstance(task, ImagesTask):
        found = validation_results.images_to_validate(
            session, request.crawl_job_id, first=task.first, last=task.last, threshold=task.threshold
        )
    return ValidationWork(
        claim=claim,
        task=task,
        crawl_job_id=request.crawl_job_id,
        rules=rules,
        label=default_label(request.keywords),
        images=found,
    )


async def work(runtime: Runtime, work: ValidationWork, limits: JobLimits) -> Validated:
    """Validate the chunk's images, or compare all images of the job.

    Images for which `limits.chunk_budget` does not last are left to another chunk.
    """
    if isinstance(work.task, CompareTask):
        return await _compare_all(runtime, work)
    return await _validate_all(runtime, work, limits.chunk_budget.total_seconds())


async def _validate_all(runtime: Runtime, work: ValidationWork, seconds: float) -> Validated:
    """Validate every image of the range, reading some while another one is decoded.

    Raises:
        TransientError, PermanentError: from the storage, or when no decoder can be started.
    """
    checker = _checker(runtime, work.rules)
    results: dict[int, ValidationResult] = {}
    measured: list[tuple[ImageRecord, ImageFacts]] = []
    waiting, taken = iter(work.images), itertools.count()
    deadline = time.monotonic() + seconds

    async def validate_next() -> None:
        while (next(taken) < _CONCURRENT_READS or time.monotonic() < deadline) and (image := next(waiting, None)):
            reading = await _read_image(runtime, checker, image)
            results[image.id] = _validate(checker, image, reading, await _scores(runtime, checker, reading))
            if reading.facts is not None and image.facts is None:
                measured.append((image, reading.facts))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENT_READS):
                group.create_task(validate_next())
    except ExceptionGroup as group_error:
        # Concurrent reads fail for the same reason: one error is enough.
        raise group_error.exceptions[0] from None
    left = next(waiting, None)
    done = [results[image.id] for image in work.images if image.id in results]
    return Validated(done, measured, left=None if left is None else left.id)


@dataclass(frozen=True, slots=True)
class _Checker:
    """The rules, prepared for many images."""

    checks: Sequence[Check]
    mode: Mode
    reads_pixels: bool
    strict: bool
    max_bytes: int
    seconds: float
    classifiers: Mapping[str, Classifier]


def _checker(runtime: Runtime, rules: ValidationRules) -> _Checker:
    active = rules.active()
    size, decode = active.get("file_size", FileSize()), active.get("decode", Decode())
    assert isinstance(size, FileSize)
    assert isinstance(decode, Decode)
    return _Checker(
        checks=rules.image_checks(),
        mode=rules.effective_mode,
        reads_pixels=rules.reads_pixels,
        strict="strict_jpeg" in active,
        max_bytes=max(size.max_bytes, runtime.settings.max_image_bytes),
        seconds=decode.timeout_s,
        classifiers=classifiers.load(rules.classifiers),
    )


async def _read_image(runtime: Runtime, checker: _Checker, image: ImageRecord) -> _Reading:
    """Read and decode the file of an image, as far as the rules need it."""
    if not checker.reads_pixels and (recorded := image.facts) is not None:
        return _Reading(facts=recorded)
    try:
        key = _key(runtime, image)
        if checker.reads_pixels and not checker.classifiers:
            with runtime.storage.opened(key) as file:
                if file is not None:
                    stored = File(file.fileno(), checker.max_bytes)
                    facts, metrics = await runtime.decoder.measure(
                        stored, strict=checker.strict, seconds=checker.seconds
                    )
                    return _Reading(facts.sha256, facts, metrics)
        body = await runtime.storage.get(key, max_bytes=checker.max_bytes)
        if checker.reads_pixels:
            facts, metrics = await runtime.decoder.measure(body, strict=checker.strict, seconds=checker.seconds)
            return _Reading(facts.sha256, facts, metrics, body=body)
        facts = await runtime.decoder.inspect(body)
        return _Reading(facts.sha256, facts)
    except FileMissingError:
        return _Reading(broken=_MISSING)
    except RejectedError as error:
        return _Reading(await _digest(runtime, checker, image), broken=error.reason)


async def _digest(runtime: Runtime, checker: _Checker, image: ImageRecord) -> bytes | None:
    """Return the SHA-256 of a file that cannot be decoded: its content may still be what the crawl stored."""
    try:
        return hashlib.sha256(await runtime.storage.get(_key(runtime, image), max_bytes=checker.max_bytes)).digest()
    except (FileMissingError, RejectedError):
        return None


def _key(runtime: Runtime, image: ImageRecord) -> str:
    try:
        return runtime.storage.key(image.storage_url or "")
    except PermanentError as error:
        # The row has no storage URL, or one of another storage.
        raise FileMissingError(str(error)) from error


async def _scores(runtime: Runtime, checker: _Checker, reading: _Reading) -> Mapping[str, float | str]:
    if not checker.classifiers or reading.facts is None:
        return {}
    try:
        thumbnail = await runtime.decoder.thumbnail(reading.body, side=classifiers.SIDE)
    except RejectedError as error:
        return dict.fromkeys(checker.classifiers, f"failed: {error}")
    return {
        name: await asyncio.to_thread(classifiers.score, one, thumbnail) for name, one in checker.classifiers.items()
    }


def _validate(
    checker: _Checker, image: ImageRecord, reading: _Reading, scores: Mapping[str, float | str]
) -> ValidationResult:
    recorded = image.facts
    checked = CheckedImage(
        filename=image.filename,
        source_url=image.original_url,
        credit=image.credit,
        recorded_sha256=recorded.sha256 if recorded else None,
        sha256=reading.sha256,
        facts=reading.facts,
        broken=reading.broken,
        metrics=reading.metrics,
        scores=scores,
    )
    found = run_checks(checked, checker.checks)
    return ValidationResult(
        image_id=image.id,
        valid=is_valid(found, checker.mode),
        findings=found,
        sha256=reading.sha256,
        facts=reading.facts,
        metrics=reading.metrics,
    )


async def _compare_all(runtime: Runtime, work: ValidationWork) -> Validated:
    active = work.rules.active()
    plain, flat = active.get("low_information", LowInformation()), active.get("uniform", Uniform())
    assert isinstance(plain, LowInformation)
    assert isinstance(flat, Uniform)

    def read(session: Session) -> NDArray[np.void]:
        return validation_results.comparable_images(
            session, work.claim.job.id, entropy_below=plain.entropy_below, std_below=flat.std_below
        )

    def compare() -> Validated:
        return Validated(compared=list(_comparisons(transact(runtime.sessions, read), work.rules)))

    # In a thread: it takes seconds, in which the heartbeat must go on.
    return await asyncio.to_thread(compare)


def _comparisons(rows: NDArray[np.void], rules: ValidationRules) -> Iterator[ComparisonResult]:
    """Yield what the checks that compare images add to the results of some of them."""
    active = rules.active()
    image_id, pixels = rows["image_id"].astype(np.int64), rows["pixels"].astype(np.int64)
    order = duplicates.best_first(rows["valid"], pixels, rows["file_size"].astype(np.int64), image_id)
    found: defaultdict[int, list[Finding]] = defaultdict(list)
    keepers: dict[int, int] = {}
    if isinstance(check := active.get("odd_size"), OddSize):
        for at, size, bound in _odd_sizes(np.sqrt(pixels), check):
            found[at].append(Finding("odd_size", check.severity, size, bound))
    same: dict[int, int] = {}
    if isinstance(exact := active.get("exact_duplicate"), ExactDuplicate):
        same = duplicates.exact(rows["sha256"], order)
        for at, keeper in same.items():
            found[at].append(Finding("exact_duplicate", exact.severity, int(image_id[keeper]), None))
            keepers[at] = keeper
    if isinstance(near := active.get("near_duplicate"), NearDuplicate):
        # Exact duplicates are found already.
        left_out = rows["plain"].astype(bool)
        left_out[list(same)] = True
        alike = duplicates.near(
            rows["phash"].astype(np.int64).view(np.uint64),
            rows["dhash"].astype(np.int64).view(np.uint64),
            order[~left_out[order]],
            max_distance=near.max_distance,
            confirm_distance=near.confirm_distance,
        )
        for at, keeper in alike.items():
            found[at].append(Finding("near_duplicate", near.severity, int(image_id[keeper]), near.max_distance))
            keepers[at] = keeper
        keepers = {at: alike.get(keeper, keeper) for at, keeper in keepers.items()}
    for at, findings in sorted(found.items()):
        keeper_id = int(image_id[keepers[at]]) if at in keepers else None
        yield ComparisonResult(int(image_id[at]), findings, is_valid(findings, rules.effective_mode), keeper_id)


def _odd_sizes(sizes: NDArray[np.float64], check: OddSize) -> Iterator[tuple[int, float, float]]:
    """Yield positions, sizes and exceeded bounds of images outside of Tukey's fences around sqrt(width x height)."""
    if len(sizes) < check.min_images:
        return
    low, high = np.percentile(sizes, (25, 75))
    margin = check.iqr_factor * (high - low)
    for beyond, bound in ((sizes < low - margin, low - margin), (sizes > high + margin, high + margin)):
        for at in np.flatnonzero(beyond):
            yield int(at), round(float(sizes[at]), 1), round(float(bound), 1)


def write(session: Session, work: ValidationWork, validated: Validated) -> Report:
    """Write the results; return the counts of the chunk."""
    job_id = work.claim.job.id
    found = Counter(finding.check for result in validated.results for finding in result.findings)
    found.update(finding.check for result in validated.compared for finding in result.findings)
    valid = sum(result.valid for result in validated.results)
    invalid = len(validated.results) - valid
    validation_results.insert(session, job_id, validated.results)
    version = _MEASURED_HASHES if work.rules.reads_pixels else images.HASH_VERSION
    validation_results.record_facts(
        session, work.crawl_job_id, validated.measured, hash_version=version, label=work.label
    )
    if validated.left is not None and isinstance(work.task, ImagesTask):
        rest = replace(work.task, first=validated.left, images=len(work.images) - len(validated.results))
        jobs.lock(session, work.claim.job)
        jobs.add_chunks(session, work.claim.job, [rest.to_json()])
    invalidated = validation_results.add_comparisons(session, job_id, validated.compared)
    return Report(
        result=ValidationChunkResult(counts=found, images=len(validated.results)).to_json(),
        gains={"validated_images": valid - invalidated, "invalid_images": invalid + invalidated},
    )

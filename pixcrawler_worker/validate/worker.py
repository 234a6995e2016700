"""Running one chunk: validate a range of images, or compare all images of the job with each other."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from pixcrawler_worker.db import images, validation_results
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validation_results import ComparisonResult, ValidationResult
from pixcrawler_worker.domain.checks import (
    Check,
    CheckedImage,
    Finding,
    Metrics,
    Mode,
    internal_error,
    is_valid,
    run_checks,
)
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS, ImageFacts
from pixcrawler_worker.domain.labels import default_label
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.domain.storage_keys import crawl_job_prefix
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.inspection.process import File
from pixcrawler_worker.jobs.internal_errors import InternalErrors
from pixcrawler_worker.jobs.kind import Report, Tally
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, image_limits
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.storage.failures import FileMissingError
from pixcrawler_worker.validate import classifiers, duplicates, planner
from pixcrawler_worker.validate.classifiers import Scorer
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

log = structlog.get_logger()

#: Files that are read at a time, while others are decoded.
_CONCURRENT_READS = 16
#: Values of the finding `decode` for files that are missing, and for those that the storage cannot read.
_MISSING, _UNREADABLE = "missing", "unreadable"
#: Share of a chunk's budget that a classifier may take for one image.
_CLASSIFIER_SHARE = 0.1


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
        metrics: by the id of an image, what the crawl has measured of it, if the rules need no more than that.
    """

    claim: Claim
    task: ImagesTask | CompareTask
    crawl_job_id: int
    rules: ValidationRules
    label: str
    images: Sequence[ImageRecord]
    metrics: Mapping[int, Metrics] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated:
    """The work of a chunk.

    Attributes:
        results: of the images that were validated.
        measured: facts of images whose rows had none.
        compared: what comparing all images adds to their results.
        left: id of the first image that there was no time for; None when there was time for all.
        late: ids of images that were begun, and not done when there was no more time.
    """

    results: Sequence[ValidationResult] = ()
    measured: Sequence[tuple[ImageRecord, ImageFacts]] = ()
    compared: Sequence[ComparisonResult] = ()
    left: int | None = None
    late: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read from the file of an image."""

    sha256: bytes | None = None
    facts: ImageFacts | None = None
    metrics: Metrics | None = None
    broken: str | None = None
    bug: str | None = None
    body: bytes = b""


def prepare(runtime: Runtime, session: Session, claim: Claim) -> ValidationWork:
    """Read the rules, and the images of the chunk as their rows have them."""
    request, rules = planner.rules_of(session, claim.job.id)
    task = task_of(claim.payload)
    found: list[ImageRecord] = []
    metrics: Mapping[int, Metrics] = {}
    if isinstance(task, ImagesTask):
        found = validation_results.images_to_validate(
            session, request.crawl_job_id, first=task.first, last=task.last, threshold=task.threshold
        )
        if _may_be_recorded(rules, runtime.settings):
            metrics = validation_results.recorded_metrics(session, found)
    return ValidationWork(
        claim=claim,
        task=task,
        crawl_job_id=request.crawl_job_id,
        rules=rules,
        label=default_label(request.keywords),
        images=found,
        metrics=metrics,
    )


def _may_be_recorded(rules: ValidationRules, settings: Settings) -> bool:
    """Return whether what a crawl has measured is all that the rules need. It has used no strict decoder.

    With less time than a crawl had, images that it could decode are invalid.
    """
    active = rules.active()
    decode = active.get("decode", Decode())
    assert isinstance(decode, Decode)
    has_less_time = "timeout_s" in decode.model_fields_set and decode.timeout_s < settings.decode_seconds
    return rules.reads_pixels and not (rules.classifiers or "strict_jpeg" in active or has_less_time)


async def work(runtime: Runtime, work: ValidationWork, limits: JobLimits) -> Validated:
    """Validate the chunk's images, or compare all images of the job.

    Images for which `limits.chunk_budget` does not last are left to another chunk, and those that are begun by then to
    a chunk each, half of the time from then to the deadline later: what one image takes is not taken from others.

    Raises:
        TransientError, PermanentError: from the storage, or when no decoder can be started.
    """
    if isinstance(work.task, CompareTask):
        return await _compare_all(runtime, work)
    validation = _Validation(runtime, work, limits)
    try:
        return await validation.run()
    finally:
        validation.close()


@dataclass(slots=True)
class _Progress:
    """What has become of the images of a chunk so far.

    Attributes:
        results: by the id of the image.
        measured: facts of images whose rows had none.
        troubled: images whose files could not be read, with the errors of the storage, which may be of the file alone.
        answered: the last key for which the storage had an answer, be it that there is no such file.
    """

    results: dict[int, ValidationResult] = field(default_factory=dict)
    measured: list[tuple[ImageRecord, ImageFacts]] = field(default_factory=list)
    troubled: list[tuple[ImageRecord, WorkerError]] = field(default_factory=list)
    answered: str | None = None


class _Validation:
    """Validates the images of a range: each ends with a result, and whatever it raises is its own."""

    def __init__(self, runtime: Runtime, work: ValidationWork, limits: JobLimits) -> None:
        active = work.rules.active()
        size, decode = active.get("file_size", FileSize()), active.get("decode", Decode())
        assert isinstance(size, FileSize)
        assert isinstance(decode, Decode)
        self._runtime = runtime
        self._work = work
        self._checks: Sequence[Check] = work.rules.image_checks()
        self._mode: Mode = work.rules.effective_mode
        self._reads_pixels = work.rules.reads_pixels
        self._strict = "strict_jpeg" in active
        self._max_bytes = max(size.max_bytes, runtime.settings.max_image_bytes)
        self._seconds = decode.timeout_s
        budget, deadline = limits.chunk_budget.total_seconds(), limits.chunk_deadline.total_seconds()
        self._budget, self._stop = budget, (budget + deadline) / 2
        self._scorers = {
            name: Scorer(one, seconds=budget * _CLASSIFIER_SHARE)
            for name, one in classifiers.load(work.rules.classifiers).items()
        }
        self._limits = image_limits(runtime.settings)
        self._bugs = InternalErrors("validation", "image not checked: internal error")
        self._progress = _Progress()

    def close(self) -> None:
        """End the threads of classifiers."""
        for scorer in self._scorers.values():
            scorer.close()

    async def run(self) -> Validated:
        """Validate the images, reading some while another one is decoded."""
        images, progress = self._work.images, self._progress
        waiting, taken = iter(images), itertools.count()
        begun = time.monotonic()
        late: set[int] = set()

        async def validate_next() -> None:
            while (next(taken) < _CONCURRENT_READS or time.monotonic() < begun + self._budget) and (
                image := next(waiting, None)
            ):
                late.add(image.id)
                await self._validate(image)
                late.discard(image.id)

        try:
            # The only image of a chunk is not stopped: its attempts end at the deadline, and are counted.
            async with asyncio.timeout(self._stop if len(images) > 1 else None), asyncio.TaskGroup() as group:
                for _ in range(_CONCURRENT_READS):
                    group.create_task(validate_next())
        except ExceptionGroup as group_error:
            # Concurrent reads fail for the same reason: one error is enough.
            raise group_error.exceptions[0] from None
        except TimeoutError:
            pass
        await self._end_troubled()
        left = next(waiting, None)
        return Validated(
            [progress.results[image.id] for image in images if image.id in progress.results],
            progress.measured,
            left=None if left is None else left.id,
            late=sorted(late),
        )

    async def _validate(self, image: ImageRecord) -> None:
        """Add the result of an image. Trouble of the decoder or of the storage as a whole is the chunk's."""
        try:
            reading = await self._read_image(image)
        except (OutageError, PermanentError) as error:
            if isinstance(error, OutageError) and not error.may_be_one_file:
                raise
            self._progress.troubled.append((image, error))
            return
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one image raises is its own
            reading = _Reading(bug=self._bugs.add(error, image=image.id))
        try:
            scores = await self._scores(reading)
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            reading, scores = replace(reading, bug=self._bugs.add(error, image=image.id)), {}
        self._add(image, reading, scores)

    async def _end_troubled(self) -> None:
        """Add the results of images whose files the storage cannot read, although it can read others.

        They are read once more, between two reads of another file: an outage may begin and end within a chunk.

        Raises:
            OutageError, PermanentError: when it can read none.
        """
        progress = self._progress
        if not progress.troubled:
            return
        await self._require_readable()
        again, progress.troubled = progress.troubled, []
        for image, _ in again:
            await self._validate(image)
        if progress.troubled:
            await self._require_readable()
        for image, error in progress.troubled:
            log.warning("the file of an image cannot be read", image=image.id, reason=str(error))
            self._add(image, _Reading(broken=_UNREADABLE), {})

    async def _require_readable(self) -> None:
        """Check that the storage can read another file than those with which there was trouble, now.

        Raises:
            OutageError, PermanentError: when it can read none.
        """
        storage, troubled = self._runtime.storage, self._progress.troubled
        folder = crawl_job_prefix(self._work.crawl_job_id)
        besides = {storage.key(image.storage_url or "") for image, _ in troubled}
        if not await storage.has_readable(folder, besides=besides, answered=self._progress.answered):
            raise troubled[0][1]

    async def _read_image(self, image: ImageRecord) -> _Reading:
        """Read and decode the file of an image, as far as the rules need it."""
        if not self._reads_pixels and (recorded := image.facts) is not None:
            return _Reading(facts=recorded)
        try:
            key = self._key(image)
        except FileMissingError:
            return _Reading(broken=_MISSING)
        try:
            reading = await self._measured_before(image, key) or await self._read_file(key)
        except FileMissingError:
            reading = _Reading(broken=_MISSING)
        except RejectedError as error:
            reading = _Reading(await self._digest(key), broken=error.reason)
        self._progress.answered = key
        return reading

    async def _measured_before(self, image: ImageRecord, key: str) -> _Reading | None:
        """Return what the crawl measured of a file; None when it is to be decoded, because it is not what it was then.

        Its bytes are read and compared in any case: what decoding would find in them is known if they are the same.
        """
        facts, metrics = image.facts, self._work.metrics.get(image.id)
        if metrics is None or facts is None or facts.format not in WRITTEN_FORMATS:  # the extra of others may be gone
            return None
        if not self._limits.surely_allow(facts.format, facts.width, facts.height, facts.frames):
            return None
        (found,) = await self._runtime.storage.get_all([key], _size_and_digest, max_bytes=self._max_bytes)
        if found != (facts.file_size, facts.sha256):
            return None
        return _Reading(facts.sha256, facts, metrics)

    async def _read_file(self, key: str) -> _Reading:
        decoder, storage = self._runtime.decoder, self._runtime.storage
        if self._reads_pixels and not self._scorers:
            with storage.opened(key) as file:
                if file is not None:
                    stored = File(file.fileno(), self._max_bytes)
                    facts, metrics = await decoder.measure(stored, strict=self._strict, seconds=self._seconds)
                    return _Reading(facts.sha256, facts, metrics)
        body = await storage.get(key, max_bytes=self._max_bytes)
        if self._reads_pixels:
            facts, metrics = await decoder.measure(body, strict=self._strict, seconds=self._seconds)
            return _Reading(facts.sha256, facts, metrics, body=body)
        facts = await decoder.inspect(body)
        return _Reading(facts.sha256, facts)

    async def _digest(self, key: str) -> bytes | None:
        """Return the SHA-256 of a file that cannot be decoded: its content may still be what the crawl stored."""
        try:
            body = await self._runtime.storage.get(key, max_bytes=self._max_bytes)
            return hashlib.sha256(body).digest()
        except (FileMissingError, RejectedError):
            return None

    def _key(self, image: ImageRecord) -> str:
        try:
            return self._runtime.storage.key(image.storage_url or "")
        except PermanentError as error:
            # The row has no storage URL, or one of another storage.
            raise FileMissingError(str(error)) from error

    async def _scores(self, reading: _Reading) -> Mapping[str, float | str]:
        if not self._scorers or reading.facts is None:
            return {}
        try:
            thumbnail = await self._runtime.decoder.thumbnail(reading.body, side=classifiers.SIDE)
        except RejectedError as error:
            return dict.fromkeys(self._scorers, f"failed: {error}")
        return {name: await scorer.score(thumbnail) for name, scorer in self._scorers.items()}

    def _add(self, image: ImageRecord, reading: _Reading, scores: Mapping[str, float | str]) -> None:
        checked = CheckedImage(
            filename=image.filename,
            source_url=image.original_url,
            credit=image.credit,
            recorded_sha256=image.sha256,
            sha256=reading.sha256,
            facts=reading.facts,
            broken=reading.broken,
            metrics=reading.metrics,
            scores=scores,
        )
        found = run_checks(
            checked, self._checks, on_error=lambda error, check: self._bugs.add(error, image=image.id, check=check)
        )
        if reading.bug is not None:
            found.append(internal_error(reading.bug))
        self._runtime.show_progress(len(self._progress.results) + 1)
        self._progress.results[image.id] = ValidationResult(
            image_id=image.id,
            valid=is_valid(found, self._mode),
            findings=found,
            sha256=reading.sha256,
            facts=reading.facts,
            metrics=reading.metrics,
        )
        if reading.facts is not None and image.facts is None:
            self._progress.measured.append((image, reading.facts))


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
    image_id = rows["image_id"].astype(np.int64)
    pixels = np.maximum(rows["pixels"].astype(np.int64), 0)  # a row may state any number
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
    results = validation_results.insert_each(session, job_id, validated.results)
    found = Counter(check for result in results for check in {finding.check for finding in result.findings})
    found.update(finding.check for result in validated.compared for finding in result.findings)
    valid = sum(result.valid for result in results)
    invalid = len(results) - valid
    version = images.MEASURED_HASH_VERSION if work.rules.reads_pixels else images.HASH_VERSION
    validation_results.record_facts(
        session, work.crawl_job_id, validated.measured, hash_version=version, label=work.label
    )
    if isinstance(work.task, ImagesTask) and (rest := _rest(work.task, validated, images=len(work.images))):
        jobs.lock(session, work.claim.job)
        jobs.add_chunks(session, work.claim.job, [task.to_json() for task in rest])
    invalidated = validation_results.add_comparisons(session, job_id, validated.compared)
    return Report(
        result=ValidationChunkResult(counts=found, images=len(results)).to_json(),
        gains={"validated_images": valid - invalidated, "invalid_images": invalid + invalidated},
        tally=Tally(
            outcomes={"valid": valid, "invalid": invalid, "invalid_by_comparison": invalidated},
            rejected=found,
            bytes=sum(image.file_size or 0 for image in work.images),
        ),
    )


def _size_and_digest(body: bytes) -> tuple[int, bytes]:
    return len(body), hashlib.sha256(body).digest()


def _rest(task: ImagesTask, validated: Validated, *, images: int) -> list[ImagesTask]:
    """Return the tasks of other chunks: one for each late image, and one for those that were not begun."""
    rest = [replace(task, first=image_id, last=image_id, images=1) for image_id in validated.late]
    if validated.left is not None:
        left = images - len(validated.results) - len(validated.late)
        rest.append(replace(task, first=validated.left, images=left))
    return rest

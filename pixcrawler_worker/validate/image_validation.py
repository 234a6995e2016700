"""Validating the images of a range: each is read, measured and checked."""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.validation_results import ValidationResult
from pixcrawler_worker.domain.checks import (
    Check,
    CheckedImage,
    Metrics,
    Mode,
    internal_error,
    is_valid,
    run_checks,
)
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS, ImageFacts
from pixcrawler_worker.domain.labels import UNLABELED
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.domain.storage_keys import crawl_job_prefix
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.inspection.process import File
from pixcrawler_worker.jobs.internal_errors import InternalErrors
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, image_limits
from pixcrawler_worker.storage.failures import FileMissingError
from pixcrawler_worker.validate.rules import Decode, FileSize
from pixcrawler_worker.validate.scoring import Scorers
from pixcrawler_worker.validate.work import Validated, ValidationWork

log = structlog.get_logger()

#: Files that are read at a time, while others are decoded.
_CONCURRENT_READS = 16
#: Values of the finding `decode` for files that are missing, and for those that the storage cannot read.
_MISSING, _UNREADABLE = "missing", "unreadable"


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read from the file of an image."""

    sha256: bytes | None = None
    facts: ImageFacts | None = None
    metrics: Metrics | None = None
    broken: str | None = None
    bug: str | None = None
    body: bytes = b""


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


class ImageValidation:
    """Validates the images of a range: each ends with a result, and whatever it raises is its own.

    Args:
        runtime: connects to storage and decoder.
        work: the chunk.
        limits: of its time.
        scorers: the classifiers that the rules enable; the caller closes them.
    """

    def __init__(self, runtime: Runtime, work: ValidationWork, limits: JobLimits, scorers: Scorers) -> None:
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
        self._scorers = scorers
        self._limits = image_limits(runtime.settings)
        self._bugs = InternalErrors("validation", "image not checked: internal error")
        self._progress = _Progress()

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
            scores = await self._scores(image, reading)
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

    async def _scores(self, image: ImageRecord, reading: _Reading) -> Mapping[str, float | str]:
        if not self._scorers or reading.facts is None:
            return {}
        return await self._scorers.scores(self._runtime.decoder, reading.body, label_of(image, self._work.label))

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
            scores={name: score for name, score in scores.items() if not isinstance(score, str)},
        )
        if reading.facts is not None and image.facts is None:
            self._progress.measured.append((image, reading.facts))


def label_of(image: ImageRecord, default: str) -> str | None:
    """Return the label of an image; None when it has none.

    Args:
        image: as its row has it.
        default: label of the job's images without one.
    """
    label = image.label or default
    return label if label.strip() and label != UNLABELED else None


def _size_and_digest(body: bytes) -> tuple[int, bytes]:
    return len(body), hashlib.sha256(body).digest()

"""Planning and ending a validation job."""

import contextlib
from collections.abc import Sequence

from pixcrawler_worker.db import image_comparisons, validations
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunk_results, chunks, jobs
from pixcrawler_worker.db.ledger.chunk_results import EndedChunk
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.db.validations import VALIDATION_JOBS, ValidationRequest
from pixcrawler_worker.domain.checks import INTERNAL_ERROR, JOB_CHECKS, Mode, invalidating
from pixcrawler_worker.domain.lifecycle import ChunkState, Counters, JobStatus
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.jobs.kind import Chunks, Conclusion
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.validate import finding_counts, scoring
from pixcrawler_worker.validate.payloads import CompareTask, ImagesTask, task_of
from pixcrawler_worker.validate.rules import Decode, ValidationRules, parse

#: Images of a chunk. Validating what is recorded takes microseconds an image, reading and decoding it milliseconds.
_RECORDED, _READ = 5000, 500
#: The parameters of the check `decode` that a setting of the worker limits.
_DECODE_SETTINGS = {
    "max_pixels": "max_image_pixels",
    "max_frames": "max_image_frames",
    "timeout_s": "decode_seconds",
}


def record_request(runtime: Runtime, session: Session, ref: JobRef, options: object) -> None:
    """Record that a job was requested; its options are in its row."""
    del runtime, options
    validations.record_request(session, ref.id)


def plan(runtime: Runtime, session: Session, ref: JobRef) -> Chunks:
    """Return the chunks that validate the images of the crawl job. The caller holds the job's lock.

    Raises:
        PermanentError: when its rules are invalid, a classifier or its model is missing, or the crawl job has no
            images.
    """
    request, rules = rules_of(session, ref.id)
    _require_limits(runtime.settings, rules)
    scoring.require(rules, runtime.settings)
    threshold = None
    if rules.sample is not None:
        threshold = validations.sample_threshold(session, request.crawl_job_id, rules.sample)
    size = _READ if rules.reads_pixels else _RECORDED
    ranges = validations.ranges(session, request.crawl_job_id, size=size, threshold=threshold)
    if not ranges:
        raise PermanentError(f"crawl job {request.crawl_job_id} has no images to validate")
    images = sum(part.images for part in ranges)
    validations.record_plan(
        session,
        ref.id,
        effective=rules.effective_mode is not Mode.REPORT_ONLY,
        note=_note(request, images),
        images=images,
    )
    tasks = [ImagesTask(first=part.first, last=part.last, images=part.images, threshold=threshold) for part in ranges]
    return Chunks([task.to_json() for task in tasks], {"images": images, "chunks": len(ranges), "level": rules.level})


def lock_parents(session: Session, ref: JobRef) -> None:
    """Lock the crawl job: its count of valid images follows from the results, in the transaction that ends the job."""
    request = validations.load(session, ref.id)
    if request is not None:
        jobs.lock(session, CRAWL_JOBS.ref(request.crawl_job_id))


def conclude(runtime: Runtime, session: Session, ref: JobRef, counters: Counters) -> Chunks | Conclusion:
    """Return the chunk that compares the images once all are validated, or the end of the job."""
    del runtime, counters
    request = validations.load(session, ref.id)
    if request is None:
        raise UnknownJobError(ref.table.name, ref.id)
    ended = chunk_results.ended(session, ref)
    validated = [chunk for chunk in ended if isinstance(task_of(chunk.payload), ImagesTask)]
    compared = next((chunk for chunk in ended if isinstance(task_of(chunk.payload), CompareTask)), None)
    if not any(chunk.state is ChunkState.COMPLETED for chunk in validated):
        error = next((chunk.error for chunk in validated if chunk.error), None)
        return Conclusion.failure(error) if error else Conclusion.never_planned(Task.VALIDATION_START)
    if compared is None and not JOB_CHECKS.isdisjoint(parse(request.rules).active()):
        return Chunks([CompareTask().to_json()])
    if compared is not None and compared.state is ChunkState.FAILED:
        return Conclusion.failure(f"the images could not be compared: {compared.error}")
    return _complete(session, ref, request, validated)


def reopened(session: Session, ref: JobRef) -> None:
    """Let the images be compared again when some of them are validated only now.

    The comparison is dropped with what it has found, and planned again when all images are validated.
    """
    open_ = chunk_results.open_payloads(session, ref)
    if any(isinstance(task_of(payload), ImagesTask) for payload in open_):
        chunks.discard(session, ref, CompareTask().to_json())
        rules = ValidationRules()
        # Invalid rules fail the chunks, with the reason.
        with contextlib.suppress(PermanentError):
            _, rules = rules_of(session, ref.id)
        severities = invalidating(rules.effective_mode)
        image_comparisons.remove_comparisons(session, ref.id, checks=JOB_CHECKS, invalidating=severities)


def _require_limits(settings: Settings, rules: ValidationRules) -> None:
    """Check that the worker can decode what the rules accept.

    Raises:
        PermanentError: when a limit in the rules exceeds that of the worker, which would decide in its place.
    """
    decode = rules.checks.decode
    if not isinstance(decode, Decode):
        return
    for parameter, setting in _DECODE_SETTINGS.items():
        value, limit = getattr(decode, parameter), getattr(settings, setting)
        if parameter in decode.model_fields_set and value > limit:
            raise PermanentError(
                f"validation_rules.checks.decode.{parameter}: {value:.15g} exceeds the limit of the worker, "
                f"{limit:.15g}: lower it, or raise the setting PIXCRAWLER_{setting.upper()}"
            )


def _note(request: ValidationRequest, images: int) -> str | None:
    if request.crawl_status not in {JobStatus.PENDING, JobStatus.RUNNING}:
        return None
    return (
        f"crawl job {request.crawl_job_id} was still {request.crawl_status}: the {images} images that it had were "
        "validated"
    )


def _complete(session: Session, ref: JobRef, request: ValidationRequest, validated: Sequence[EndedChunk]) -> Conclusion:
    failed = [chunk for chunk in validated if chunk.state is ChunkState.FAILED]
    notes = [validations.note(session, ref.id)]
    if failed:
        tasks = (task_of(chunk.payload) for chunk in failed)
        left = sum(task.images for task in tasks if isinstance(task, ImagesTask))
        notes.append(f"{left} images could not be validated: {failed[0].error}")
    found = finding_counts.counts(session, ref.id)
    if bugs := found[INTERNAL_ERROR]:
        notes.append(f"{bugs} images met an internal error and were not checked completely: see the worker's log")
    counters = validations.set_counters(session, ref.id)
    # Before the crawl job's images are counted: only a completed validation counts.
    jobs.end(session, ref, JobStatus.COMPLETED)
    valid_images = validations.update_valid_images(session, request.crawl_job_id)
    details = {**counters, "counts": dict(found), "valid_images_of_crawl_job": valid_images}
    return Conclusion(JobStatus.COMPLETED, "; ".join(filter(None, notes)) or None, details)


def rules_of(session: Session, job_id: int) -> tuple[ValidationRequest, ValidationRules]:
    """Return the request of a job, and its rules.

    Raises:
        PermanentError: when its rules are invalid, or it is gone.
    """
    request = validations.load(session, job_id)
    if request is None:
        raise UnknownJobError(VALIDATION_JOBS.name, job_id)
    return request, parse(request.rules)

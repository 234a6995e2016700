"""Running one chunk: validate a range of images, or compare all images of the job with each other."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from pixcrawler_worker.db import image_comparisons, images, validation_results
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.labels import default_label, labels_of
from pixcrawler_worker.jobs.kind import Report, Tally
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.validate import comparison, planner, scoring
from pixcrawler_worker.validate.image_validation import ImageValidation, label_of
from pixcrawler_worker.validate.payloads import CompareTask, ImagesTask, ValidationChunkResult, task_of
from pixcrawler_worker.validate.rules import Decode, ValidationRules
from pixcrawler_worker.validate.scoring import Scorers
from pixcrawler_worker.validate.work import Validated, ValidationWork

#: Share of a chunk's budget that a classifier may take for one image, or one batch.
_CLASSIFIER_SHARE = 0.1


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
        classes=labels_of(request.keywords),
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
    return rules.reads_pixels and not (rules.has_classifiers or "strict_jpeg" in active or has_less_time)


async def work(runtime: Runtime, work: ValidationWork, limits: JobLimits) -> Validated:
    """Validate the chunk's images, or compare all images of the job.

    Images for which `limits.chunk_budget` does not last are left to another chunk, and those that are begun by then to
    a chunk each, half of the time from then to the deadline later: what one image takes is not taken from others.

    Raises:
        TransientError, PermanentError: from the storage, when no decoder can be started, or when a classifier of the
            rules has no model.
    """
    if isinstance(work.task, CompareTask):
        return await comparison.compare_all(runtime, work)
    scorers = await _opened(runtime, work, limits)
    try:
        return await ImageValidation(runtime, work, limits, scorers).run()
    finally:
        scorers.close()


async def _opened(runtime: Runtime, work: ValidationWork, limits: JobLimits) -> Scorers:
    """Return the classifiers of the rules, ready for the images of the chunk."""
    labels = {label_of(image, work.label) for image in work.images} - {None}
    open_all = partial(
        scoring.open_scorers,
        work.rules,
        runtime.settings,
        labels=sorted(filter(None, labels)),
        classes=work.classes,
        seconds=limits.chunk_budget.total_seconds() * _CLASSIFIER_SHARE,
    )
    # In a thread: a model takes seconds, in which the heartbeat must go on.
    return await asyncio.to_thread(open_all) if work.rules.has_classifiers else open_all()


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
    invalidated = image_comparisons.add_comparisons(session, job_id, validated.compared)
    return Report(
        result=ValidationChunkResult(counts=found, images=len(results)).to_json(),
        gains={"validated_images": valid - invalidated, "invalid_images": invalid + invalidated},
        tally=Tally(
            outcomes={"valid": valid, "invalid": invalid, "invalid_by_comparison": invalidated},
            rejected=found,
            bytes=sum(image.file_size or 0 for image in work.images),
        ),
    )


def _rest(task: ImagesTask, validated: Validated, *, images: int) -> list[ImagesTask]:
    """Return the tasks of other chunks: one for each late image, and one for those that were not begun."""
    rest = [replace(task, first=image_id, last=image_id, images=1) for image_id in validated.late]
    if validated.left is not None:
        left = images - len(validated.results) - len(validated.late)
        rest.append(replace(task, first=validated.left, images=left))
    return rest

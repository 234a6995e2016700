"""Planning and ending a validation job.

Every function here may be called twice, late, or at once with itself and the others: each decides under the job's lock,
and returns the chunks to send messages about once its transaction has committed.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import structlog

from pixcrawler_worker import starting
from pixcrawler_worker.db import activity, chunks, jobs, validations
from pixcrawler_worker.db.chunks import Ended
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validations import Asked
from pixcrawler_worker.domain.lifecycle import ChunkState, JobKind, JobRef, JobStatus
from pixcrawler_worker.domain.verdicts import COLLECTIVE, Mode
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.classifiers import CLASSIFIERS
from pixcrawler_worker.validate.rules import ValidationRules, parse

log = structlog.get_logger()

#: Images of a chunk. Judging what is recorded takes microseconds an image, reading and decoding it milliseconds.
_RECORDED, _READ = 5000, 500
#: The step in which images are compared with each other, in the payload of its chunk.
COMPARE = "compare"


class UnknownJobError(PermanentError):
    """There is no validation job with that id."""

    def __init__(self, job_id: object) -> None:
        super().__init__(f"there is no validation job {job_id!r}")


def start(runtime: Runtime, job_id: int) -> list[Wake]:
    """Plan a pending job; do nothing for one that has been started.

    What is wrong with the row or its rules fails the job, with the reason in `error_message`.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = JobRef(JobKind.VALIDATION, job_id)
    begin = functools.partial(_begin, runtime, ref=ref)
    return starting.start(runtime, ref, begin, unknown=UnknownJobError(job_id))


def conclude(runtime: Runtime, job_id: int) -> list[Wake]:
    """Have the images of a job compared once all are judged, or end the job."""
    ref = JobRef(JobKind.VALIDATION, job_id)

    def work(session: Session) -> list[Wake]:
        asked = validations.load(session, job_id)
        if asked is None:
            return []
        # From the top down: the crawl job's count follows from the verdicts, in the transaction that completes the job.
        jobs.lock(session, JobRef(JobKind.CRAWL, asked.crawl_job_id))
        if jobs.lock(session, ref) is not JobStatus.RUNNING or jobs.counters(session, ref).open:
            return []
        parts = chunks.ended(session, JobRef(JobKind.VALIDATION, job_id))
        judged = [part for part in parts if "step" not in part.payload]
        compared = next((part for part in parts if part.payload.get("step") == COMPARE), None)
        if not any(part.state is ChunkState.COMPLETED for part in judged):
            starting.fail(session, ref, next((part.error for part in judged if part.error), None) or _NEVER_PLANNED)
        elif compared is None and not COLLECTIVE.isdisjoint(parse(asked.rules).active()):
            jobs.add_chunks(session, ref, [{"step": COMPARE}])
            return chunks.wake_next(session, ref, limit=1)
        elif compared is not None and compared.state is ChunkState.FAILED:
            starting.fail(session, ref, f"the images could not be compared: {compared.error}")
        else:
            _complete(session, ref, asked, judged)
        return []

    return transact(runtime.sessions, work)


def counts(session: Session, job_id: int) -> Counter[str]:
    """Return how many images each check found something in, the most frequent first."""
    total: Counter[str] = Counter()
    for part in chunks.ended(session, JobRef(JobKind.VALIDATION, job_id)):
        total.update(part.result.get("counts", {}))
    return Counter(dict(total.most_common()))


_NEVER_PLANNED = "the row was set running by hand: write it as pending, and send pixcrawler.validation.start"


def _begin(runtime: Runtime, session: Session, *, ref: JobRef) -> list[Wake]:
    if jobs.lock(session, ref) is not JobStatus.PENDING:
        return []
    asked = validations.load(session, ref.id)
    assert asked is not None
    rules = parse(asked.rules)
    for name in rules.classifiers:
        CLASSIFIERS.require(name)
    threshold = None
    if rules.sample is not None:
        threshold = validations.sample_threshold(session, asked.crawl_job_id, rules.sample)
    size = _READ if rules.reads_pixels else _RECORDED
    ranges = validations.ranges(session, asked.crawl_job_id, size=size, threshold=threshold)
    if not ranges:
        raise PermanentError(f"crawl job {asked.crawl_job_id} has no images to judge")
    images = sum(part.images for part in ranges)
    jobs.begin(session, ref)
    validations.plan(
        session,
        ref.id,
        effective=rules.counts is not Mode.REPORT_ONLY,
        note=_note(asked, images),
        images=images,
    )
    payloads = [{"first": part.first, "last": part.last, "images": part.images} for part in ranges]
    jobs.add_chunks(session, ref, [payload | {"threshold": threshold} for payload in payloads])
    activity.record(session, ref, "started", {"images": images, "chunks": len(ranges), "level": rules.level})
    return chunks.wake_next(session, ref, limit=runtime.settings.dispatch_window)


def _note(asked: Asked, images: int) -> str | None:
    if asked.crawl_status not in {JobStatus.PENDING, JobStatus.RUNNING}:
        return None
    return f"crawl job {asked.crawl_job_id} was still {asked.crawl_status}: the {images} images that it had were judged"


def _complete(session: Session, ref: JobRef, asked: Asked, judged: Sequence[Ended]) -> None:
    failed = [part for part in judged if part.state is ChunkState.FAILED]
    notes = [validations.note(session, ref.id)]
    if failed:
        left = sum(part.payload["images"] for part in failed)
        notes.append(f"{left} images could not be judged: {failed[0].error}")
    settled = validations.settle(session, ref.id)
    jobs.end(session, ref, JobStatus.COMPLETED, error="; ".join(filter(None, notes)) or None)
    left_valid = validations.apply(session, asked.crawl_job_id)
    details = {**settled, "counts": dict(counts(session, ref.id)), "valid_images_of_crawl_job": left_valid}
    activity.record(session, ref, "completed", details)
    log.info("job ended", job=ref.id, status=JobStatus.COMPLETED, **settled)


def rules_of(session: Session, job_id: int) -> tuple[Asked, ValidationRules]:
    """Return what a running job asks for.

    Raises:
        PermanentError: when its rules cannot be read any more, or it is gone.
    """
    asked = validations.load(session, job_id)
    if asked is None:
        raise UnknownJobError(job_id)
    return asked, parse(asked.rules)

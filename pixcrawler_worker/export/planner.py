"""Planning and ending an export job.

Every function here may be called twice, late, or at once with itself and the others: each decides under the job's lock,
and returns the chunks to send messages about once its transaction has committed.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog

from pixcrawler_worker import starting
from pixcrawler_worker.db import activity, chunks, exports, jobs, validations
from pixcrawler_worker.db.chunks import Ended
from pixcrawler_worker.db.exports import Choice, Cut
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import licenses, planning, splits
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.lifecycle import ChunkState, JobKind, JobRef, JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import plan
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.exporters.protocol import Carrier
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

#: The step in which an export's files become one thing with a link, in the payload of its chunk.
_PUBLISH = "publish"
_LOSSY_FORMATS = frozenset({"jpg", "webp", "avif"})


class UnknownJobError(PermanentError):
    """There is no export job with that id."""

    def __init__(self, job_id: object) -> None:
        super().__init__(f"there is no export job {job_id!r}")


def publishes(payload: Mapping[str, Any]) -> bool:
    """Tell whether a chunk is the last step of its export."""
    return payload.get("step") == _PUBLISH


def start(runtime: Runtime, job_id: int) -> list[Wake]:
    """Plan a pending job; do nothing for one that has been started.

    What is wrong with the row or its options fails the job, with the reason in `error_message`.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = JobRef(JobKind.EXPORT, job_id)
    begin = functools.partial(_begin, runtime, ref=ref)
    return starting.start(runtime, ref, begin, unknown=UnknownJobError(job_id))


def conclude(runtime: Runtime, job_id: int) -> list[Wake]:
    """Have a job's archives published once all are written, or end the job."""
    ref = JobRef(JobKind.EXPORT, job_id)

    def work(session: Session) -> list[Wake]:
        if jobs.lock(session, ref) is not JobStatus.RUNNING or jobs.counters(session, ref).open:
            return []
        parts = chunks.ended(session, ref)
        published = next((part for part in parts if publishes(part.payload)), None)
        failed = next((part for part in parts if part.state is ChunkState.FAILED), None)
        if failed is not None:
            # A dataset without some of its archives would be another one than the one that was asked for.
            starting.fail(session, ref, failed.error or "an archive could not be written")
        elif not parts:
            starting.fail(session, ref, _NEVER_PLANNED)
        elif published is None:
            written = [part for part in parts if part.result.get("images")]
            if not written:
                starting.fail(session, ref, _nothing(parts))
                return []
            jobs.add_chunks(session, ref, [{"step": _PUBLISH}])
            return chunks.wake_next(session, ref, limit=1)
        else:
            _complete(session, ref, published)
        return []

    return transact(runtime.sessions, work)


_NEVER_PLANNED = "the row was set running by hand: write it as pending, and send pixcrawler.export.start"


def _nothing(parts: list[Ended]) -> str:
    skipped: dict[str, int] = {}
    for part in parts:
        for reason, count in part.result.get("skipped", {}).items():
            skipped[reason] = skipped.get(reason, 0) + count
    return f"no image could be exported: {_told(skipped)}"


def _told(skipped: Mapping[str, int]) -> str:
    frequent = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in frequent)


def _begin(runtime: Runtime, session: Session, *, ref: JobRef) -> list[Wake]:
    if jobs.lock(session, ref) is not JobStatus.PENDING:
        return []
    asked = exports.load(session, ref.id)
    assert asked is not None
    whole = plan.read(asked)
    judge = validations.standing(session, asked.crawl_job_id)
    choice = _choice(session, asked, whole, judge=judge, unknown=runtime.settings.max_image_bytes)
    images = exports.choose(session, ref.id, asked.crawl_job_id, choice)
    if not images:
        raise PermanentError(f"crawl job {asked.crawl_job_id} has no images that the options take")
    cuts = list(_cuts(session, ref.id, whole, images))
    jobs.begin(session, ref)
    exports.plan(session, ref.id, judge=judge, images=images, unlabelled=whole.unlabelled)
    payloads = [
        {"part": number, "parts": len(cuts), "first": one.first, "last": one.last, "name": name}
        for number, (one, name) in enumerate(zip(cuts, _names(whole, cuts), strict=True))
    ]
    jobs.add_chunks(session, ref, payloads)
    activity.record(session, ref, "started", {"images": images, "parts": len(cuts), "validation": judge})
    return chunks.wake_next(session, ref, limit=runtime.settings.dispatch_window)


def _choice(session: Session, asked: exports.Asked, whole: Plan, *, judge: int | None, unknown: int) -> Choice:
    wanted, layout = whole.options, whole.layout
    select, image = wanted.select, wanted.image
    known = exports.licenses(session, asked.crawl_job_id)
    copies = image.format == "keep" and image.resize is None and not image.strip_metadata
    target = layout.formats[0] if image.format == "keep" else image.format
    return Choice(
        judge=judge,
        only_valid=select.only_valid,
        exclude_flags=select.exclude_flags,
        labels=select.labels,
        licenses=None if select.licenses is None else [n for n in known if licenses.is_wanted(n, select.licenses)],
        min_width=select.min_width or 0,
        min_height=select.min_height or 0,
        limit=select.limit,
        label=whole.unlabelled,
        seed=wanted.splits.seed,
        bounds=splits.bounds(wanted.ratios(layout)) or [splits.WHOLE],
        by_group=wanted.splits.by == "duplicate_group",
        stratified=wanted.splits.stratify is not None,
        turns=image.orient,
        copied=sorted(set(FORMATS).intersection(layout.formats)) if copies else (),
        longest=image.resize.size if image.resize and image.resize.mode in {"fit", "cover", "pad"} else None,
        lossy=target in _LOSSY_FORMATS,
        unknown_bytes=unknown,
    )


def _cuts(session: Session, job_id: int, whole: Plan, images: int) -> Iterator[Cut]:
    """Yield the images of each archive, of which none grows beyond a limit."""
    if whole.carrier is Carrier.CSV:
        yield Cut(0, images - 1, 0)
        return
    first = 0
    while one := exports.cut(
        session,
        job_id,
        first,
        most_bytes=whole.options.archive.part_max_bytes,
        most_images=whole.options.archive.part_max_images,
        one_split=whole.layout.split_per_part,
    ):
        yield one
        first = one.last + 1


def _names(whole: Plan, cuts: Sequence[Cut]) -> Iterator[str]:
    """Yield the name of each archive's file."""
    if whole.layout.split_per_part:
        numbers: dict[int, int] = {}
        for one in cuts:
            number = numbers[one.split] = numbers.get(one.split, -1) + 1
            yield f"{whole.splits[one.split] if whole.splits else 'train'}-{number:05d}.{whole.carrier}"
    elif len(cuts) == 1:
        yield f"{planning.plain_name(whole.name) or 'dataset'}.{whole.carrier}"
    else:
        for number in range(len(cuts)):
            yield f"part-{number:05d}-of-{len(cuts):05d}.{whole.carrier}"


def _complete(session: Session, ref: JobRef, published: Ended) -> None:
    told = published.result["publish"]
    result = told["result"]
    asked = exports.load(session, ref.id)
    assert asked is not None
    exports.publish(
        session,
        ref.id,
        url=told["url"],
        size=result["file_size"],
        images=result["images"],
        result=result,
        lives=plan.read(asked).lives,
        signed=timedelta(seconds=told["signed_s"]),
    )
    skipped = result["skipped"]
    jobs.end(session, ref, JobStatus.COMPLETED, error=f"left out: {_told(skipped)}" if skipped else None)
    details = {"images": result["images"], "parts": len(result["parts"]), "file_size": result["file_size"]}
    activity.record(session, ref, "completed", {**details, "skipped": skipped})
    log.info("job ended", job=ref.id, status=JobStatus.COMPLETED, **details)

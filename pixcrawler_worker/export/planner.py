"""Planning and ending an export job."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db import exports, validations
from pixcrawler_worker.db.exports import Choice, Cut, ExportRequest
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import EndedChunk
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain import licenses, planning, splits
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.lifecycle import ChunkState, Counters, JobStatus
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.export import plan as plans
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.exporters.protocol import Carrier
from pixcrawler_worker.jobs.kind import Chunks, Conclusion
from pixcrawler_worker.runtime import Runtime

#: The step in which an export's files become one thing with a link, in the payload of its chunk.
_PUBLISH = "publish"
_LOSSY_FORMATS = frozenset({"jpg", "webp", "avif"})


def publishes(payload: Mapping[str, Any]) -> bool:
    """Tell whether a chunk is the last step of its export."""
    return payload.get("step") == _PUBLISH


def plan(runtime: Runtime, session: Session, ref: JobRef) -> Chunks:
    """Choose the images of an export and return a chunk for each of its archives. The caller holds the job's lock.

    Raises:
        PermanentError: when its row or its options are invalid, or no image is left.
    """
    request = exports.load(session, ref.id)
    if request is None:
        raise UnknownJobError(ref.table.name, ref.id)
    whole = plans.read(request)
    validation = validations.effective_validation(session, request.crawl_job_id)
    choice = _choice(session, request, whole, judge=validation, unknown=runtime.settings.max_image_bytes)
    images = exports.choose(session, ref.id, request.crawl_job_id, choice)
    if not images:
        raise PermanentError(f"crawl job {request.crawl_job_id} has no images that the options take")
    cuts = list(_cuts(session, ref.id, whole, images))
    exports.plan(session, ref.id, judge=validation, images=images, unlabelled=whole.unlabelled)
    payloads = [
        {"part": number, "parts": len(cuts), "first": one.first, "last": one.last, "name": name}
        for number, (one, name) in enumerate(zip(cuts, _names(whole, cuts), strict=True))
    ]
    return Chunks(payloads, {"images": images, "parts": len(cuts), "validation": validation})


def conclude(runtime: Runtime, session: Session, ref: JobRef, counters: Counters) -> Chunks | Conclusion:
    """Return the chunk that publishes the archives once all are written, or the end of the job."""
    del runtime, counters
    ended = chunks.ended(session, ref)
    published = next((chunk for chunk in ended if publishes(chunk.payload)), None)
    failed = next((chunk for chunk in ended if chunk.state is ChunkState.FAILED), None)
    if failed is not None:
        # A dataset without some of its archives would be another one than the one that was requested.
        return Conclusion.failure(failed.error or "an archive could not be written")
    if not ended:
        return Conclusion.never_planned(Task.EXPORT_START)
    if published is not None:
        return _complete(session, ref, published)
    if not any(chunk.result.get("images") for chunk in ended):
        return Conclusion.failure(_nothing(ended))
    return Chunks([{"step": _PUBLISH}])


def _nothing(parts: list[EndedChunk]) -> str:
    skipped: dict[str, int] = {}
    for part in parts:
        for reason, count in part.result.get("skipped", {}).items():
            skipped[reason] = skipped.get(reason, 0) + count
    return f"no image could be exported: {_listed(skipped)}"


def _listed(skipped: Mapping[str, int]) -> str:
    frequent = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in frequent)


def _choice(session: Session, request: ExportRequest, whole: Plan, *, judge: int | None, unknown: int) -> Choice:
    wanted, layout = whole.options, whole.layout
    select, image = wanted.select, wanted.image
    known = exports.licenses(session, request.crawl_job_id)
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


def _complete(session: Session, ref: JobRef, published: EndedChunk) -> Conclusion:
    publication = published.result["publish"]
    result = publication["result"]
    request = exports.load(session, ref.id)
    if request is None:
        raise UnknownJobError(ref.table.name, ref.id)
    exports.publish(
        session,
        ref.id,
        url=publication["url"],
        size=result["file_size"],
        images=result["images"],
        result=result,
        lives=plans.read(request).lives,
        signed=timedelta(seconds=publication["signed_s"]),
    )
    skipped = result["skipped"]
    details = {"images": result["images"], "parts": len(result["parts"]), "file_size": result["file_size"]}
    return Conclusion(
        JobStatus.COMPLETED,
        f"left out: {_listed(skipped)}" if skipped else None,
        {**details, "skipped": skipped},
    )

"""Planning and concluding export jobs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db import export_selection, exports, extensions, validations
from pixcrawler_worker.db.export_selection import ExportPart, Selection
from pixcrawler_worker.db.exports import ExportRequest
from pixcrawler_worker.db.ledger import chunk_results, chunks, jobs
from pixcrawler_worker.db.ledger.chunk_results import EndedChunk
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain import labels, licenses, splits
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.lifecycle import ChunkState, Counters, JobStatus
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.export.payloads import ArchiveResult, ArchiveTask, Publication, PublishTask, archives_of, task_of
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.jobs.kind import Chunks, Conclusion
from pixcrawler_worker.runtime import Runtime

#: Time for which files may still be deleted after the deletion began: nothing is written under their names meanwhile.
_DELETION = timedelta(minutes=1)
_LOSSY_FORMATS = frozenset({"jpg", "webp", "avif"})
#: Bytes of an image in an archive besides its file and its texts, and those of each further file of it in a tar: its
#: header, and what fills its last block.
_OVERHEAD, _FILE_IN_TAR = 2000, 1024


def record_request(runtime: Runtime, session: Session, ref: JobRef, options: object) -> None:
    """Record that a job was requested; its options are in its row."""
    del runtime, options
    exports.request(session, ref.id)


def plan(runtime: Runtime, session: Session, ref: JobRef) -> Chunks:
    """Select the images of an export and return a chunk for each of its archives. The caller holds the job's lock.

    Raises:
        PermanentError: when the row or its options are invalid, or no images are selected.
    """
    request = exports.load(session, ref.id)
    if request is None:
        raise UnknownJobError(ref.table.name, ref.id)
    export_plan = Plan.of(request)
    selection = _selection(session, request, export_plan, unknown=runtime.settings.max_image_bytes)
    images = export_selection.insert_entries(session, ref.id, selection)
    if not images:
        raise PermanentError(f"crawl job {request.crawl_job_id} has no images that the options select")
    columns = export_selection.list_columns(session, ref.id, images=images)
    parts = list(_parts(session, ref.id, export_plan, images))
    used = [one for one in selection.validation_ids if one is not None]
    validation = selection.validation_ids[-1]
    exports.record_plan(
        session,
        ref.id,
        validation_id=validation,
        validation_ids=used,
        images=images,
        default_label=export_plan.default_label,
        columns=columns,
    )
    tasks = [
        ArchiveTask(part=number, parts=len(parts), first=part.first, last=part.last, name=name)
        for number, (part, name) in enumerate(zip(parts, _names(export_plan, parts), strict=True))
    ]
    details: dict[str, Any] = {"images": images, "parts": len(parts), "validation": validation}
    if len(selection.crawl_job_ids) > 1:
        details["crawl_jobs"] = list(selection.crawl_job_ids)
    return Chunks([task.to_json() for task in tasks], details)


def conclude(runtime: Runtime, session: Session, ref: JobRef, counters: Counters) -> Chunks | Conclusion:
    """Return the chunk that publishes the archives once all are written, or the end of the job."""
    del runtime, counters
    ended = chunk_results.ended(session, ref)
    published = next((chunk for chunk in ended if isinstance(task_of(chunk.payload), PublishTask)), None)
    failed = next((chunk for chunk in ended if chunk.state is ChunkState.FAILED), None)
    if failed is not None:
        # A dataset without some of its archives would not be the requested one.
        return Conclusion.failure(failed.error or "an archive could not be written")
    if not ended:
        return Conclusion.never_planned(Task.EXPORT_START)
    if published is not None:
        return _complete(session, ref, Publication.from_json(published.result))
    if not any(archive.summary.images for archive in archives_of(ended)):
        return Conclusion.failure(_nothing_exported(ended))
    return Chunks([PublishTask().to_json()])


def reopened(session: Session, ref: JobRef) -> None:
    """Let all archives be written again when their files were deleted after the export had failed, or had no images."""
    cleaned_at = exports.take_cleaned_at(session, ref.id)
    if cleaned_at is not None:
        chunks.discard(session, ref, PublishTask().to_json())
        jobs.requeue_completed(session, ref, available_at=cleaned_at + _DELETION)
        exports.reset_counters(session, ref.id)
    elif not any(chunk.result.get("images") for chunk in chunk_results.ended(session, ref)):
        # What was missing in the storage may be there by now.
        jobs.requeue_completed(session, ref)


def _nothing_exported(ended: Sequence[EndedChunk]) -> str:
    skipped: Counter[str] = Counter()
    for chunk in ended:
        skipped.update(ArchiveResult.from_json(chunk.result).summary.skipped)
    return f"no image could be exported: {_listed(skipped)}"


def _listed(skipped: Mapping[str, int]) -> str:
    frequent = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in frequent)


def _selection(session: Session, request: ExportRequest, export_plan: Plan, *, unknown: int) -> Selection:
    options, layout = export_plan.options, export_plan.layout
    select, image = options.select, options.image
    resize = image.resize
    crawl_jobs = extensions.chain(session, request.crawl_job_id)
    known = export_selection.licenses(session, crawl_jobs)
    copies = image.format == "keep" and resize is None and not image.strip_metadata
    further_files = layout.files_per_image - 1
    target = layout.image_formats[0] if image.format == "keep" else image.format
    return Selection(
        crawl_job_ids=crawl_jobs,
        validation_ids=[validations.effective_validation(session, job_id) for job_id in crawl_jobs],
        only_valid=select.only_valid,
        exclude_flags=select.exclude_flags,
        labels=select.labels,
        licenses=None if select.licenses is None else [n for n in known if licenses.is_allowed(n, select.licenses)],
        min_width=select.min_width or 0,
        min_height=select.min_height or 0,
        exclude_images=[bytes.fromhex(digest) for digest in select.exclude_images],
        limit=select.limit,
        default_label=export_plan.default_label,
        seed=options.splits.seed,
        bounds=splits.bounds(options.ratios(layout)) or [splits.WHOLE],
        by_group=options.splits.by == "duplicate_group",
        stratified=options.splits.stratify is not None,
        may_rotate=image.orient,
        copied=sorted(set(FORMATS).intersection(layout.image_formats)) if copies else (),
        max_side=resize.size if resize and resize.mode in {"fit", "cover", "pad"} else None,
        enlarged_to=resize.size if resize and not resize.only_shrink else None,
        canvas=resize.size if resize and resize.mode == "pad" else 0,
        lossy=target in _LOSSY_FORMATS,
        unknown_bytes=unknown,
        overhead=_OVERHEAD + (_FILE_IN_TAR * further_files if export_plan.format is ExportFormat.TAR else 0),
    )


def _parts(session: Session, job_id: int, export_plan: Plan, images: int) -> Iterator[ExportPart]:
    """Yield the images of each archive, within the limits of the options."""
    if export_plan.format is ExportFormat.CSV:
        yield ExportPart(0, images - 1, 0)
        return
    first = 0
    while part := export_selection.next_part(
        session,
        job_id,
        first,
        max_bytes=export_plan.options.archive.part_max_bytes,
        max_images=export_plan.options.archive.part_max_images,
        one_split=export_plan.layout.split_per_part,
    ):
        yield part
        first = part.last + 1


def _names(export_plan: Plan, parts: Sequence[ExportPart]) -> Iterator[str]:
    """Yield the file name of each archive."""
    if export_plan.layout.split_per_part:
        numbers: dict[int, int] = {}
        for part in parts:
            number = numbers[part.split] = numbers.get(part.split, -1) + 1
            split = export_plan.splits[part.split] if export_plan.splits else "train"
            yield f"{split}-{number:05d}.{export_plan.format}"
    elif len(parts) == 1:
        name = labels.plain_name(export_plan.name)
        # An archive named `test.zip` would be taken for a split, and Windows has no file named `con.zip`.
        is_usable = name and not labels.has_split_word(name) and not labels.is_device_name(name)
        yield f"{name if is_usable else 'dataset'}.{export_plan.format}"
    else:
        for number in range(len(parts)):
            yield f"part-{number:05d}-of-{len(parts):05d}.{export_plan.format}"


def _complete(session: Session, ref: JobRef, publication: Publication) -> Conclusion:
    result = publication.result
    request = exports.load(session, ref.id)
    if request is None:
        raise UnknownJobError(ref.table.name, ref.id)
    exports.publish(
        session,
        ref.id,
        url=publication.url,
        size=result.file_size,
        images=result.summary.images,
        result=result.to_json(),
        ttl=Plan.of(request).ttl,
        url_ttl=timedelta(seconds=publication.url_ttl_s),
    )
    skipped = result.summary.skipped
    details = {"images": result.summary.images, "parts": len(result.parts), "file_size": result.file_size}
    return Conclusion(
        JobStatus.COMPLETED,
        f"left out: {_listed(skipped)}" if skipped else None,
        {**details, "skipped": dict(skipped)},
    )

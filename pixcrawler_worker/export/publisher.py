"""Publishing an export: Croissant metadata, a card, and for several archives a report and a manifest; then the URL."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.domain.safe_text import safe_json
from pixcrawler_worker.export import card, croissant, failed, report
from pixcrawler_worker.export.payloads import ArchiveResult, ExportResult, Publication
from pixcrawler_worker.export.plan import Plan, key
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.runtime import Runtime

#: Lists the archives of an export with several; written last.
MANIFEST = "manifest.json"


async def publish(
    runtime: Runtime, job_id: int, plan: Plan, written: Sequence[ArchiveResult], shown: Sequence[ExportEntry]
) -> Publication:
    """Write the files next to the archives, the manifest last; return the URL and the totals.

    Args:
        runtime: connects to storage and decoder.
        job_id: the export job.
        plan: plan of the export.
        written: its archives, in their order; those without images are published if the layout needs them.
        shown: images of the contact sheet.
    """
    summary = Summary()
    for archive in written:
        summary.merge(archive.summary)
    archives = [archive for archive in written if archive.summary.images or plan.layout.needs_all_archives]
    # Files in an archive of several have the number of the archive in their names, also when it is the only one left.
    has_parts = len(written) > 1
    name, files = archives[0].name, [archive.name for archive in archives]
    if plan.options.extras.croissant:
        files.append(croissant.NAME)
        await runtime.storage.put(key(job_id, croissant.NAME), croissant.write(plan, summary, archives))
    # Some layouts are read from their archives: their readers look for the card next to these.
    if plan.options.extras.dataset_card and (has_parts or plan.layout.extra_path(card.NAME) != card.NAME):
        files.append(card.NAME)
        await runtime.storage.put(key(job_id, card.NAME), card.write(plan, summary).encode())
    if plan.options.extras.failures and await failed.write(runtime, key(job_id, failed.NAME), plan.crawl_job_id):
        files.append(failed.NAME)
    if has_parts:
        name = MANIFEST
        files.append(MANIFEST)
        if plan.options.extras.html_report:
            files.append(report.NAME)
            left_out = {position for archive in written for position in archive.left_out}
            shown = [entry for entry in shown if entry.seq not in left_out]
            # They are in several archives, which a link from here cannot open.
            places = {entry.seq: report.place(entry, plan.stem(entry), None) for entry in shown}
            sheet = report.Sheet(shown, await report.thumbnails(runtime, shown), places)
            html = report.write(plan, summary, sheet)
            await runtime.storage.put(key(job_id, report.NAME), html)
    result = ExportResult(
        name=name,
        files=files,
        parts=[_listed(archive) for archive in archives],
        file_size=sum(archive.size for archive in archives),
        summary=summary,
    )
    url, url_ttl = await sign(runtime, job_id, plan, result, ttl=plan.ttl)
    return Publication(url=url, url_ttl_s=url_ttl.total_seconds(), result=result)


async def sign(
    runtime: Runtime, job_id: int, plan: Plan, result: ExportResult, *, ttl: timedelta
) -> tuple[str, timedelta]:
    """Return a new URL of an export and how long it is valid. The URLs in a manifest are replaced, too.

    Args:
        runtime: connects to storage.
        job_id: the export job.
        plan: plan of the export.
        result: result in its row.
        ttl: how long its files are kept.
    """
    if result.name == MANIFEST:
        await _write_manifest(runtime, job_id, plan, result, ttl)
    return runtime.storage.link(key(job_id, result.name), ttl=ttl)


def _listed(archive: ArchiveResult) -> dict[str, Any]:
    """Return the entry of an archive in results and manifests."""
    return {
        "name": archive.name,
        "size": archive.size,
        "sha256": archive.sha256,
        "images": archive.summary.images,
    }


async def _write_manifest(runtime: Runtime, job_id: int, plan: Plan, result: ExportResult, ttl: timedelta) -> None:
    def with_url(file: Mapping[str, Any]) -> dict[str, Any]:
        url, _ = runtime.storage.link(key(job_id, file["name"]), ttl=ttl)
        return {**file, "url": url}

    archives = {part["name"] for part in result.parts}
    manifest = {
        "name": plan.name,
        "format": plan.format,
        "layout": plan.layout_name,
        "file_size": result.file_size,
        **result.summary.to_json(),
        "parts": [with_url(part) for part in result.parts],
        "files": [with_url({"name": name}) for name in result.files if name not in {*archives, MANIFEST}],
    }
    body = json.dumps(safe_json(manifest), indent=2, ensure_ascii=False).encode()
    await runtime.storage.put(key(job_id, MANIFEST), body)

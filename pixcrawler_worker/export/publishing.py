"""What makes the archives of an export one thing: a card, a manifest where there are several, and a link."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db.exports import Item
from pixcrawler_worker.export import card, croissant, report
from pixcrawler_worker.export.plan import Plan, key
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.runtime import Runtime

#: What lists the archives where there are several, written when all of them are there.
MANIFEST = "manifest.json"
_PART = ("name", "size", "sha256", "images")


async def publish(
    runtime: Runtime, job_id: int, plan: Plan, parts: Sequence[Mapping[str, Any]], shown: Sequence[Item]
) -> dict[str, Any]:
    """Write what stands beside several archives, the manifest last; return the link and the totals.

    Args:
        runtime: what connects to storage.
        job_id: the export job.
        plan: what it asks for.
        parts: what its chunks said of their archives, in their order.
        shown: some of its images, for the page.
    """
    summary = Summary()
    for part in parts:
        summary.merge(part)
    listed = [{name: part[name] for name in _PART} for part in parts]
    result: dict[str, Any] = {
        "name": listed[0]["name"],
        "files": [part["name"] for part in listed],
        "parts": listed,
        "file_size": sum(part["size"] for part in listed),
        **summary.as_json(),
    }
    if plan.options.extras.croissant:
        result["files"].append(croissant.NAME)
        await runtime.storage.put(key(job_id, croissant.NAME), croissant.write(plan, summary, parts))
    if len(parts) > 1:
        result["name"] = MANIFEST
        result["files"].append(MANIFEST)
        if plan.options.extras.dataset_card:
            result["files"].append("README.md")
            await runtime.storage.put(key(job_id, "README.md"), card.write(plan, summary).encode())
        if plan.options.extras.html_report:
            result["files"].append(report.NAME)
            page = report.write(plan, summary, shown, await report.thumbnails(runtime, shown))
            await runtime.storage.put(key(job_id, report.NAME), page)
        await _write_manifest(runtime, job_id, plan, result, plan.lives)
    url, signed = runtime.storage.link(key(job_id, result["name"]), lives=plan.lives)
    return {"url": url, "signed_s": signed.total_seconds(), "result": result}


async def sign_again(
    runtime: Runtime, job_id: int, plan: Plan, result: Mapping[str, Any], *, lives: timedelta
) -> tuple[str, timedelta]:
    """Return a fresh link to an export whose files are kept, and how long it works; a manifest gets fresh ones, too.

    Args:
        runtime: what connects to storage.
        job_id: the export job.
        plan: what it asked for.
        result: what `publish` returned under that name.
        lives: how long its files are still kept.
    """
    if result["name"] == MANIFEST:
        await _write_manifest(runtime, job_id, plan, result, lives)
    return runtime.storage.link(key(job_id, result["name"]), lives=lives)


async def _write_manifest(
    runtime: Runtime, job_id: int, plan: Plan, result: Mapping[str, Any], lives: timedelta
) -> None:
    def linked(file: Mapping[str, Any]) -> dict[str, Any]:
        url, _ = runtime.storage.link(key(job_id, file["name"]), lives=lives)
        return {**file, "url": url}

    listed = {part["name"] for part in result["parts"]}
    manifest = {
        "name": plan.name,
        "format": plan.carrier,
        "layout": plan.layout_name,
        **{name: value for name, value in result.items() if name not in {"name", "files", "parts"}},
        "parts": [linked(part) for part in result["parts"]],
        "files": [linked({"name": name}) for name in result["files"] if name not in {*listed, MANIFEST}],
    }
    body = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    await runtime.storage.put(key(job_id, MANIFEST), body)

"""croissant.json: metadata for search engines and dataset loaders (docs.mlcommons.org/croissant, version 1.1)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pixcrawler_worker.domain import licenses, tables
from pixcrawler_worker.domain.list_columns import ColumnType
from pixcrawler_worker.domain.safe_text import safe_json
from pixcrawler_worker.export.payloads import ArchiveResult
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters.protocol import ExportFormat

#: Name of the file.
NAME = "croissant.json"
#: Source: "Example context" of the specification.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEDIA_TYPES = {
    ExportFormat.ZIP: "application/zip",
    ExportFormat.TAR: "application/x-tar",
    ExportFormat.CSV: "text/csv",
}
_DATA_TYPES: Mapping[ColumnType, str] = {
    "string": "sc:Text",
    "int64": "sc:Integer",
    "float64": "sc:Float",
    "bool": "sc:Boolean",
}
_PROJECT = "https://github.com/pixcrawler"


def write(plan: Plan, summary: Summary, archives: Sequence[ArchiveResult]) -> bytes:
    """Return the file.

    Args:
        plan: plan of the export.
        summary: counts of its images.
        archives: its archives, in their order.
    """
    described = [(number, archive) for number, archive in enumerate(archives) if archive.table]
    packed = described if plan.format is not ExportFormat.CSV else []
    # Of those in the plan, some may have no images left.
    labels = [label for label in plan.labels if summary.labels.get(label)]
    found = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": plan.name,
        "description": f"{summary.images:,} images of {len(labels):,} classes: {_listed(labels)}.",
        "license": [_license(name) for name in sorted(summary.licenses)],
        "url": _PROJECT,
        "creator": {"@type": "sc:Organization", "name": "PixCrawler", "url": _PROJECT},
        "datePublished": f"{plan.crawl_ended_at:%Y-%m-%d}",
        "version": "1.0.0",
        "distribution": [
            *(_archive(plan, archive) for archive in archives),
            *(_table(number, archive) for number, archive in packed),
        ],
        "recordSet": [_records(plan, number, archive) for number, archive in described],
    }
    return json.dumps(safe_json(found), indent=2, ensure_ascii=False).encode()


def _archive(plan: Plan, archive: ArchiveResult) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": archive.name,
        "name": archive.name,
        "contentUrl": archive.name,
        "contentSize": f"{archive.size} B",
        "encodingFormat": _MEDIA_TYPES[plan.format],
        "sha256": archive.sha256,
    }


def _table(number: int, archive: ArchiveResult) -> dict[str, Any]:
    assert archive.table is not None
    path, sha256 = archive.table
    return {
        "@type": "cr:FileObject",
        "@id": f"table-{number:05d}",
        "name": f"table-{number:05d}",
        "description": "A line per image.",
        "containedIn": {"@id": archive.name},
        "contentUrl": path,
        "encodingFormat": "text/csv",
        "sha256": sha256,
    }


def _records(plan: Plan, number: int, archive: ArchiveResult) -> dict[str, Any]:
    source = archive.name if plan.format is ExportFormat.CSV else f"table-{number:05d}"
    name = f"images-{number:05d}"
    types: dict[str, ColumnType] = {one: "int64" if one in tables.NUMBERS else "string" for one in tables.COLUMNS}
    types.update(plan.columns.types)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/file_name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{quote(column)}",
                "name": column,
                "dataType": _DATA_TYPES[type_],
                "source": {"fileObject": {"@id": source}, "extract": {"column": column}},
            }
            for column, type_ in types.items()
        ],
    }


def _license(name: str) -> str:
    """Return the URL of the license text, or the name of the license if there is none."""
    return licenses.deed_url(name) or name or "unknown"


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:20])
    return f"{shown} and {len(labels) - 20:,} more" if len(labels) > 20 else shown  # noqa: PLR2004 - enough to read

"""Payloads and results of the chunks of exports, and the result in the row of an export."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pixcrawler_worker.db.ledger.chunk_results import EndedChunk
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.domain.stored_json import Fields
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.summary import Summary

#: The step in which the archives are published, in the payload of its chunk.
_PUBLISH = "publish"
#: The path of a table and its digest.
_TABLE_FIELDS = 2


#: What the payload of an archive has from its planning on.
_PLANNED = ("part", "parts", "first", "last", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveTask:
    """Writing one archive.

    Attributes:
        part: number of the archive, from 0.
        parts: number of archives of the export.
        first, last: positions of its first and last image in the export.
        name: file name.
        segments: positions of the first images of its segments; None when it is written without; see `prepared.py`.
        prepared: position of the first image that is in no segment yet.
    """

    part: int
    parts: int
    first: int
    last: int
    name: str
    segments: tuple[int, ...] | None = None
    prepared: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        return {name: value for name, value in asdict(self).items() if self.segments is not None or name in _PLANNED}


@dataclass(frozen=True, slots=True)
class PublishTask:
    """Publishing the archives, once all are written."""

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        return {"step": _PUBLISH}


def task_of(payload: Mapping[str, Any]) -> ArchiveTask | PublishTask:
    """Return the task in the payload of a chunk.

    Raises:
        PermanentError: when the payload is invalid; the message names the field.
    """
    if payload.get("step") == _PUBLISH:
        return PublishTask()
    fields = Fields(payload, "payload")
    return ArchiveTask(
        part=fields.integer("part", maximum=MAX_INT4),
        parts=fields.integer("parts", maximum=MAX_INT4),
        first=fields.integer("first", maximum=MAX_INT4),
        last=fields.integer("last", maximum=MAX_INT4),
        name=fields.text("name"),
        segments=fields.integers("segments") if fields.has("segments") else None,
        prepared=fields.integer("prepared", maximum=MAX_INT4) if fields.has("segments") else 0,
    )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An archive that one attempt could not write in its time.

    Attributes:
        task: what is left of it.
        progressed: whether the attempt has prepared images.
    """

    task: ArchiveTask
    progressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveResult:
    """An archive that was written.

    Attributes:
        name: file name.
        size: bytes.
        sha256: in hexadecimal digits.
        table: path of the table of its images in it, and the digest of that table; None when it has none.
        summary: counts of its images.
        left_out: positions in the export of the first of its images that were left out.
    """

    name: str
    size: int
    sha256: str
    table: tuple[str, str] | None
    summary: Summary
    left_out: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result of the chunk."""
        return {
            "name": self.name,
            "size": self.size,
            "sha256": self.sha256,
            "table": self.table,
            **({"left_out": list(self.left_out)} if self.left_out else {}),
            **self.summary.to_json(),
        }

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> "ArchiveResult":
        """Return the archive with that result.

        Raises:
            PermanentError: when the result is invalid; the message names the field.
        """
        fields = Fields(result, "result")
        table = fields.texts("table") if fields.has("table") else None
        if table is not None and len(table) != _TABLE_FIELDS:
            raise PermanentError(f"result.table: expected a path and a digest, got an array of {len(table)}")
        return cls(
            name=fields.text("name"),
            size=fields.integer("size"),
            sha256=fields.text("sha256"),
            table=None if table is None else (table[0], table[1]),
            summary=Summary.from_fields(fields),
            left_out=fields.integers("left_out") if fields.has("left_out") else (),
        )


def archives_of(ended: Iterable[EndedChunk]) -> list[ArchiveResult]:
    """Return the archives that these chunks have written, in their order; some may have no images."""
    return [ArchiveResult.from_json(chunk.result) for chunk in ended if "size" in chunk.result]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """The value of `export_options.result` in the row of an export.

    Attributes:
        name: name of the file at `download_url`: the archive, or the manifest of several.
        files: names of all files of the export.
        parts: name, size, checksum and number of images of each archive.
        file_size: bytes of all archives.
        summary: counts of all images.
    """

    name: str
    files: Sequence[str]
    parts: Sequence[Mapping[str, Any]]
    file_size: int
    summary: Summary

    def to_json(self) -> dict[str, Any]:
        """Return the value with JSON's types only."""
        return {
            "name": self.name,
            "files": list(self.files),
            "parts": [dict(part) for part in self.parts],
            "file_size": self.file_size,
            **self.summary.to_json(),
        }

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> "ExportResult":
        """Return what `to_json` wrote.

        Raises:
            PermanentError: when it is something else; the message names the field.
        """
        return cls.from_fields(Fields(result, "result"))

    @classmethod
    def from_fields(cls, fields: Fields) -> "ExportResult":
        """Return the result with these fields. Raises as `from_json`."""
        return cls(
            name=fields.text("name"),
            files=fields.texts("files"),
            parts=fields.objects("parts"),
            file_size=fields.integer("file_size"),
            summary=Summary.from_fields(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A published export.

    Attributes:
        url: URL of its archive or manifest.
        url_ttl_s: seconds for which the URL is valid.
        result: the result for its row.
    """

    url: str
    url_ttl_s: float
    result: ExportResult

    def to_json(self) -> dict[str, Any]:
        """Return the result of the chunk that published."""
        return {"publish": {"url": self.url, "signed_s": self.url_ttl_s, "result": self.result.to_json()}}

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> "Publication":
        """Return what `to_json` wrote.

        Raises:
            PermanentError: when it is something else; the message names the field.
        """
        found = Fields(result, "result").object("publish")
        return cls(
            url=found.text("url"),
            url_ttl_s=found.number("signed_s"),
            result=ExportResult.from_fields(found.object("result")),
        )

"""What the ledger keeps of validations: payloads and results of their chunks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pixcrawler_worker.domain.postgres_types import MAX_INT4, MAX_INT8
from pixcrawler_worker.domain.stored_json import Fields, counts

#: The step in which images are compared, in the payload of its chunk.
_COMPARE = "compare"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesTask:
    """Validate a range of images.

    Attributes:
        first: id of the first image.
        last: id of the last image.
        images: how many images the range has.
        threshold: of the sample, see `db/validations.py`; None for all images.
    """

    first: int
    last: int
    images: int
    threshold: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Compare all images of the job with each other, once all are validated."""

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        return {"step": _COMPARE}


def task_of(payload: Mapping[str, Any]) -> ImagesTask | CompareTask:
    """Return what a chunk of a validation does.

    Raises:
        PermanentError: when the payload is invalid; the message names the field.
    """
    if payload.get("step") == _COMPARE:
        return CompareTask()
    fields = Fields(payload, "payload")
    return ImagesTask(
        # Ids may be beyond the integers: see deploy/ids-to-bigint.sql.
        first=fields.integer("first", maximum=MAX_INT8),
        last=fields.integer("last", maximum=MAX_INT8),
        images=fields.integer("images", maximum=MAX_INT4),
        threshold=fields.integer("threshold", minimum=-MAX_INT8 - 1) if fields.has("threshold") else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationChunkResult:
    """What a chunk found.

    Attributes:
        counts: in how many images each check found something.
        images: how many images were validated.
    """

    counts: Mapping[str, int]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the result of the chunk."""
        return {"counts": dict(self.counts), "images": self.images}

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> "ValidationChunkResult":
        """Return the result; that of a chunk that failed, or that cannot be read, has found nothing."""
        return cls(counts=counts(result.get("counts")), images=counts(result).get("images", 0))

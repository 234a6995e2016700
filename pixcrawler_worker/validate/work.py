"""What a chunk of a validation works on, and what it finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pixcrawler_worker.db.image_comparisons import ComparisonResult
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.validation_results import ValidationResult
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.validate.payloads import CompareTask, ImagesTask
from pixcrawler_worker.validate.rules import ValidationRules


@dataclass(frozen=True, slots=True)
class ValidationWork:
    """A claimed chunk with what it needs of the job.

    Attributes:
        claim: of the chunk.
        task: its payload.
        crawl_job_id: whose images are validated.
        rules: of the job.
        label: of images without one.
        classes: labels of the job, as far as its keywords say.
        images: the images of the range; none for the chunk that compares.
        metrics: by the id of an image, what the crawl has measured of it, if the rules need no more than that.
    """

    claim: Claim
    task: ImagesTask | CompareTask
    crawl_job_id: int
    rules: ValidationRules
    label: str
    classes: Sequence[str]
    images: Sequence[ImageRecord]
    metrics: Mapping[int, Metrics] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated:
    """The work of a chunk.

    Attributes:
        results: of the images that were validated.
        measured: facts of images whose rows had none.
        compared: what comparing all images adds to their results.
        left: id of the first image that there was no time for; None when there was time for all.
        late: ids of images that were begun, and not done when there was no more time.
    """

    results: Sequence[ValidationResult] = ()
    measured: Sequence[tuple[ImageRecord, ImageFacts]] = ()
    compared: Sequence[ComparisonResult] = ()
    left: int | None = None
    late: Sequence[int] = ()

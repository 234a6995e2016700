"""Where the candidates of a crawl job went: counts that add up, as reports and the command line show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import crawls
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain.reasons import Reason

#: Reasons of candidates that are no distinct URLs.
_NOT_DISTINCT = (Reason.DUPLICATE_URL, Reason.INVALID_ENTRY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What became of the candidates of a job. The counts in `outcomes` sum to `found`.

    Attributes:
        found: distinct URLs that were processed, as `total_images` of the row has them.
        valid: images that count.
        invalid: images that do not count: a validation found them invalid, or there are more than requested.
        deleted: images that were deleted after the crawl.
        reasons: rejection reasons of the distinct URLs with counts, the most frequent first.
        repeated: candidates whose URL the job had met before.
        without_url: entries of a source without a URL.
        left: candidates that are left over: not needed, or not processed.
    """

    found: int
    valid: int
    invalid: int
    deleted: int
    reasons: Mapping[str, int]
    repeated: int
    without_url: int
    left: int

    @classmethod
    def of(cls, job: CrawlView, counts: crawls.CandidateCounts, *, images: int) -> Self:
        """Return the accounting of a job.

        Args:
            job: its row.
            counts: what became of its candidates.
            images: its images that still exist.
        """
        images = max(images, job.valid_images)
        repeated, without_url = (counts.reasons.get(reason, 0) for reason in _NOT_DISTINCT)
        return cls(
            found=job.total_images,
            valid=job.valid_images,
            invalid=images - job.valid_images,
            deleted=max(0, counts.stored - images),
            reasons={reason: count for reason, count in counts.reasons.items() if reason not in _NOT_DISTINCT},
            repeated=repeated,
            without_url=without_url,
            left=counts.left,
        )

    @property
    def rejected(self) -> int:
        """How often a distinct URL was rejected."""
        return sum(self.reasons.values())

    @property
    def again(self) -> int:
        """URLs that wait to be processed again; below 0, URLs that were counted as rejected more than once."""
        return self.found - self.valid - self.invalid - self.deleted - self.rejected

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """What became of the distinct URLs, with counts that sum to `found`; unusual outcomes only where they occur."""
        return [
            ("valid images", self.valid),
            *([("images not counted: invalid, or more than requested", self.invalid)] if self.invalid else []),
            *([("images that were deleted later", self.deleted)] if self.deleted else []),
            ("rejected", self.rejected),
            *([("rejected for now, to be processed again", self.again)] if self.again > 0 else []),
            *([("rejected more than once, or without a valid URL", self.again)] if self.again < 0 else []),
        ]

    @property
    def candidates(self) -> list[tuple[str, int]]:
        """All candidates that the sources or the URL list have, with counts."""
        # Those that are processed again are left over until then.
        left = max(0, self.left - max(0, self.again))
        return [
            ("distinct URLs that were processed", self.found),
            *([("the same URL again (duplicate_url)", self.repeated)] if self.repeated else []),
            *([("entries of a source without a URL (invalid_entry)", self.without_url)] if self.without_url else []),
            *([("left over: not needed, or not processed", left)] if left else []),
        ]


def read(session: Session, job: CrawlView, *, images: int) -> Accounting:
    """Return the accounting of a job whose images that still exist are counted."""
    return Accounting.of(job, crawls.candidate_counts(session, job.id, list_source=planner.URLS), images=images)

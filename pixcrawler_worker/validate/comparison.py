"""Comparing all images of a job with each other: duplicates, and odd sizes."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.db import image_comparisons
from pixcrawler_worker.db.image_comparisons import ComparisonResult
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.checks import Finding, invalidating, is_valid
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import duplicates
from pixcrawler_worker.validate.rules import (
    ExactDuplicate,
    LowInformation,
    NearDuplicate,
    OddSize,
    Uniform,
    ValidationRules,
)
from pixcrawler_worker.validate.work import Validated, ValidationWork


async def compare_all(runtime: Runtime, work: ValidationWork) -> Validated:
    """Compare all images of a job, once all are validated."""
    active = work.rules.active()
    plain, flat = active.get("low_information", LowInformation()), active.get("uniform", Uniform())
    assert isinstance(plain, LowInformation)
    assert isinstance(flat, Uniform)

    def read(session: Session) -> NDArray[np.void]:
        return image_comparisons.comparable_images(
            session, work.claim.job.id, work.crawl_job_id, entropy_below=plain.entropy_below, std_below=flat.std_below
        )

    def compare() -> Validated:
        return Validated(compared=list(_comparisons(transact(runtime.sessions, read), work.rules)))

    # In a thread: it takes seconds, in which the heartbeat must go on.
    return await asyncio.to_thread(compare)


def _comparisons(rows: NDArray[np.void], rules: ValidationRules) -> Iterator[ComparisonResult]:
    """Yield what the checks that compare images add to the results of some of them."""
    active = rules.active()
    image_id = rows["image_id"].astype(np.int64)
    pixels = np.maximum(rows["pixels"].astype(np.int64), 0)  # a row may state any number
    valid = rows["valid"].copy()
    found: defaultdict[int, list[Finding]] = defaultdict(list)
    keepers: dict[int, int] = {}
    if isinstance(check := active.get("odd_size"), OddSize):
        own = np.flatnonzero(rows["extended"] == 0)
        for place, size, bound in _odd_sizes(np.sqrt(pixels[own]), check):
            found[int(own[place])].append(Finding("odd_size", check.severity, size, bound))
        if check.severity in invalidating(rules.effective_mode):
            # Before duplicates are looked for: the largest image would be kept in place of valid ones.
            valid[list(found)] = 0
    # An image of a job that is extended comes before all others: it stays, and in its group.
    rank = valid + rows["extended"]
    order = duplicates.best_first(rank, pixels, rows["file_size"].astype(np.int64), image_id)
    same: dict[int, int] = {}
    if isinstance(exact := active.get("exact_duplicate"), ExactDuplicate):
        same = duplicates.exact(rows["sha256"], order)
        for at, keeper in same.items():
            found[at].append(Finding("exact_duplicate", exact.severity, int(image_id[keeper]), None))
            keepers[at] = keeper
    if isinstance(near := active.get("near_duplicate"), NearDuplicate):
        # Exact duplicates are found already.
        left_out = rows["plain"].astype(bool)
        left_out[list(same)] = True
        alike = duplicates.near(
            rows["phash"].astype(np.int64).view(np.uint64),
            rows["dhash"].astype(np.int64).view(np.uint64),
            order[~left_out[order]],
            max_distance=near.max_distance,
            confirm_distance=near.confirm_distance,
        )
        for at, keeper in alike.items():
            found[at].append(Finding("near_duplicate", near.severity, int(image_id[keeper]), near.max_distance))
            keepers[at] = keeper
        keepers = {at: alike.get(keeper, keeper) for at, keeper in keepers.items()}
    for at, findings in sorted(found.items()):
        if rows["extended"][at]:
            continue
        keeper_id = int(image_id[keepers[at]]) if at in keepers else None
        yield ComparisonResult(int(image_id[at]), findings, is_valid(findings, rules.effective_mode), keeper_id)


def _odd_sizes(sizes: NDArray[np.float64], check: OddSize) -> Iterator[tuple[int, float, float]]:
    """Yield positions, sizes and exceeded bounds of images outside of Tukey's fences around sqrt(width x height)."""
    if len(sizes) < check.min_images:
        return
    low, high = np.percentile(sizes, (25, 75))
    margin = check.iqr_factor * (high - low)
    for beyond, bound in ((sizes < low - margin, low - margin), (sizes > high + margin, high + margin)):
        for at in np.flatnonzero(beyond):
            yield int(at), round(float(sizes[at]), 1), round(float(bound), 1)

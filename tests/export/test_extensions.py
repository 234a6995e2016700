"""Exports of datasets that were extended: everything together, and nothing that was exported before moves."""

import io
from collections.abc import Sequence
from typing import Any

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import StoredImage, crawl_of, export, image_bytes, stored_images
from factories import make_project
from PIL import Image
from validate import validation_jobs

from pixcrawler_worker.runtime import Runtime

RATIOS = {"splits": {"ratios": {"train": 0.5, "test": 0.5}}}
NEAR = {"checks": {"near_duplicate": True}}


@pytest.fixture
def project(runtime: Runtime) -> int:
    return make_project(runtime.sessions)


def extended(
    runtime: Runtime, project: int, stored: Sequence[StoredImage], *bases: int, rules: object = NEAR, **values: Any
) -> int:
    """A crawl job that extends others, the newest first, and is validated."""
    job = crawl_of(runtime, stored, project_id=project, **values)
    statement = "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, bases) VALUES (:job, CAST(:bases AS int[]))"
    ledger.execute(runtime.sessions, statement, job=job, bases=list(bases))
    if rules is not None:
        validation_jobs.validate(runtime, job, rules)
    return job


def variant(number: int, quality: int) -> StoredImage:
    """Return an image that looks like another one with the same number."""
    written = io.BytesIO()
    with Image.open(io.BytesIO(image_bytes(number, "PNG"))) as image:
        image.save(written, "JPEG", quality=quality)
    return StoredImage(written.getvalue())


def variants(numbers: Sequence[int], quality: int) -> list[StoredImage]:
    return [variant(number, quality) for number in numbers]


def rows(runtime: Runtime, job: int, options: object = None) -> dict[str, dict[str, Any]]:
    """Export a job; return the rows of its images by the SHA-256 of their files."""
    ref = export(runtime, job, RATIOS if options is None else options)
    assert exporting.row(runtime, ref).error_message is None
    return {one["sha256"]: one for one in exporting.metadata_rows(exporting.made(runtime, ref))}


def pairs(runtime: Runtime, job: int) -> dict[bytes, bytes]:
    """Return the images of a job that are kept in place of others, by the SHA-256 of these."""
    found = query(
        runtime,
        "SELECT own.sha256, kept.sha256 FROM pixcrawler.verdicts v"
        " JOIN pixcrawler.image_facts own ON own.image_id = v.image_id"
        " JOIN pixcrawler.image_facts kept ON kept.image_id = v.keeper_id WHERE own.crawl_job_id = :job",
        job=job,
    )
    return {bytes(own): bytes(kept) for own, kept in found}


def test_two_extensions_move_and_rename_nothing_and_similar_images_stay_together(
    runtime: Runtime, project: int
) -> None:
    first = extended(runtime, project, variants(range(24), 95) + variants(range(6), 80))
    before = rows(runtime, first)
    assert len(before) == 30
    second = extended(runtime, project, variants(range(12, 36), 70), first)
    between = rows(runtime, second)
    assert len(between) == 54
    assert {name: between[name] for name in before} == before
    third = extended(runtime, project, variants(range(0, 48, 2), 60), second, first)
    after = rows(runtime, third)
    assert len(after) == 78
    assert {name: after[name] for name in between} == between
    assert {one["split"] for one in after.values()} == {"train", "test"}
    # By name: images with smaller names joined groups, which would have named these otherwise.
    kept = {**pairs(runtime, first), **pairs(runtime, second), **pairs(runtime, third)}
    assert len(kept) == 6 + 12 + 18
    assert any(own < other for own, other in kept.items())
    for own, other in kept.items():
        assert after[own.hex()]["split"] == after[other.hex()]["split"]


def test_similar_images_stay_together_when_the_image_that_was_kept_for_them_is_deleted(
    runtime: Runtime, project: int
) -> None:
    numbers = range(16)
    first = extended(runtime, project, [variant(number, quality) for quality in (95, 80) for number in numbers])
    deleted = "DELETE FROM images WHERE id IN (SELECT keeper_id FROM pixcrawler.verdicts WHERE keeper_id IS NOT NULL)"
    ledger.execute(runtime.sessions, deleted)
    assert len(rows(runtime, first)) == len(numbers)
    second = extended(runtime, project, variants(numbers, 70), first)
    after = rows(runtime, second)
    kept = pairs(runtime, second)
    assert len(kept) == len(numbers)
    assert {after[own.hex()]["split"] == after[other.hex()]["split"] for own, other in kept.items()} == {True}


def test_each_job_of_the_chain_is_selected_by_its_own_validation(runtime: Runtime, project: int) -> None:
    small = StoredImage(image_bytes(99, size=(40, 40)))
    first = extended(runtime, project, [*stored_images(3), small])
    second = extended(
        runtime, project, [*stored_images(2, first=10), StoredImage(image_bytes(98, size=(40, 40)))], first
    )
    assert len(rows(runtime, second)) == 5
    everything = rows(runtime, second, {"select": {"only_valid": False}})
    assert sum("dimensions" in one["flags"] for one in everything.values()) == 2
    assert len(everything) == 7


def test_jobs_without_a_validation_are_compared_by_what_the_crawl_has_measured(runtime: Runtime, project: int) -> None:
    first = extended(runtime, project, variants(range(4), 95), rules=None)
    second = extended(runtime, project, variants(range(2, 6), 70), first)
    assert len(pairs(runtime, second)) == 2
    assert len(rows(runtime, second)) == 8


def test_images_that_both_have_are_exported_once(runtime: Runtime, project: int) -> None:
    """A job that was tried again after it was extended may get what the other one has got meanwhile."""
    first = extended(runtime, project, stored_images(4))
    second = extended(runtime, project, stored_images(4, first=2), first)
    found = rows(runtime, second)
    assert len(found) == 6
    assert {name: found[name] for name in rows(runtime, first)} == rows(runtime, first)


def test_marked_images_are_left_out_of_all_generations_and_move_no_others(runtime: Runtime, project: int) -> None:
    first = extended(runtime, project, variants(range(8), 95))
    second = extended(runtime, project, variants(range(4, 12), 70), first)
    everything = rows(runtime, second)
    unwanted = [*sorted(rows(runtime, first))[:2], *sorted(everything.keys() - rows(runtime, first).keys())[:2]]
    left = rows(runtime, second, {**RATIOS, "select": {"exclude_images": unwanted}})
    assert left == {name: one for name, one in everything.items() if name not in unwanted}


def test_jobs_of_other_projects_and_deleted_ones_add_nothing(runtime: Runtime, project: int) -> None:
    foreign = crawl_of(runtime, stored_images(2))
    deleted = crawl_of(runtime, stored_images(2, first=2), project_id=project)
    job = extended(runtime, project, stored_images(2, first=4), deleted, foreign)
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=deleted)
    assert len(rows(runtime, job)) == 2

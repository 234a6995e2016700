"""The JSON that the ledger keeps of validations: another version of the worker reads it."""

import pytest

from pixcrawler_worker.validate.payloads import CompareTask, ImagesTask, ValidationChunkResult, task_of


@pytest.mark.parametrize(
    ("task", "payload"),
    [
        (
            ImagesTask(first=3, last=9, images=5, threshold=-7),
            {"first": 3, "last": 9, "images": 5, "threshold": -7},
        ),
        (
            ImagesTask(first=3, last=9, images=5, threshold=None),
            {"first": 3, "last": 9, "images": 5, "threshold": None},
        ),
        (CompareTask(), {"step": "compare"}),
    ],
    ids=str,
)
def test_a_task_is_the_payload_of_its_chunk(task: ImagesTask | CompareTask, payload: dict[str, object]) -> None:
    assert task.to_json() == payload
    assert task_of(payload) == task


def test_a_result_has_counts_per_check_and_the_number_of_images() -> None:
    result = ValidationChunkResult(counts={"blurry": 2}, images=5)
    assert result.to_json() == {"counts": {"blurry": 2}, "images": 5}
    assert ValidationChunkResult.from_json(result.to_json()) == result


def test_a_chunk_without_a_result_found_nothing() -> None:
    assert ValidationChunkResult.from_json({}) == ValidationChunkResult(counts={}, images=0)

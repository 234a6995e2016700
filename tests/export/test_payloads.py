"""Payloads and results of export chunks: the JSON that rows have, also those that another version wrote."""

from collections import Counter

import pytest

from pixcrawler_worker.db.ledger.chunk_results import EndedChunk
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.export.payloads import (
    ArchiveResult,
    ArchiveTask,
    ExportResult,
    Publication,
    PublishTask,
    archives_of,
    task_of,
)
from pixcrawler_worker.export.summary import Summary

ARCHIVE_PAYLOAD = {"part": 1, "parts": 3, "first": 50, "last": 99, "name": "part-00001-of-00003.zip"}
COUNTS = {
    "images": 2,
    "image_bytes": 300,
    "skipped": {"missing": 1},
    "labels": {"cat": 2},
    "splits": {"": 2},
    "formats": {"jpg": 2},
    "licenses": {"": 1, "cc0-1.0": 1},
    "sources": {"commons": 2},
}
ARCHIVE_RESULT = {"name": "cats.zip", "size": 1000, "sha256": "ab" * 32, "table": ["images.csv", "cd" * 32], **COUNTS}
EXPORT_RESULT = {
    "name": "cats.zip",
    "files": ["cats.zip", "croissant.json"],
    "parts": [{"name": "cats.zip", "size": 1000, "sha256": "ab" * 32, "images": 2}],
    "file_size": 1000,
    **COUNTS,
}
PUBLICATION = {"publish": {"url": "https://example.org/cats.zip", "signed_s": 604800.0, "result": EXPORT_RESULT}}


def test_a_payload_is_the_task_of_its_chunk() -> None:
    task = task_of(ARCHIVE_PAYLOAD)
    assert task == ArchiveTask(part=1, parts=3, first=50, last=99, name="part-00001-of-00003.zip")
    assert task.to_json() == ARCHIVE_PAYLOAD
    assert task_of({"step": "publish"}) == PublishTask()
    assert PublishTask().to_json() == {"step": "publish"}


def test_keys_that_a_later_version_adds_are_ignored() -> None:
    assert task_of({**ARCHIVE_PAYLOAD, "new": 1}) == task_of(ARCHIVE_PAYLOAD)
    assert ArchiveResult.from_json({**ARCHIVE_RESULT, "new": 1}) == ArchiveResult.from_json(ARCHIVE_RESULT)
    assert ExportResult.from_json({**EXPORT_RESULT, "new": 1}) == ExportResult.from_json(EXPORT_RESULT)


@pytest.mark.parametrize("table", [["images.csv", "cd" * 32], None])
def test_the_result_of_an_archive_is_read_as_it_was_written(table: list[str] | None) -> None:
    result = ArchiveResult.from_json({**ARCHIVE_RESULT, "table": table})
    assert result.summary == Summary(
        images=2,
        image_bytes=300,
        skipped=Counter(missing=1),
        labels=Counter(cat=2),
        splits=Counter({"": 2}),
        formats=Counter(jpg=2),
        licenses=Counter({"": 1, "cc0-1.0": 1}),
        sources=Counter(commons=2),
    )
    assert result.to_json() == {**ARCHIVE_RESULT, "table": None if table is None else tuple(table)}
    some = {**ARCHIVE_RESULT, "left_out": [50, 53]}
    assert ArchiveResult.from_json(some).left_out == (50, 53)
    assert ArchiveResult.from_json(ArchiveResult.from_json(some).to_json()).left_out == (50, 53)


def test_a_publication_is_read_as_it_was_written() -> None:
    assert Publication.from_json(PUBLICATION).to_json() == PUBLICATION


def test_only_chunks_that_wrote_archives_have_them() -> None:
    empty = {**ARCHIVE_RESULT, "images": 0}
    results = (ARCHIVE_RESULT, empty, PUBLICATION)
    ended = [EndedChunk({}, ChunkState.COMPLETED, result, None) for result in results]
    ended.append(EndedChunk(ARCHIVE_PAYLOAD, ChunkState.FAILED, {}, "the disk is full"))
    assert archives_of(ended) == [ArchiveResult.from_json(ARCHIVE_RESULT), ArchiveResult.from_json(empty)]

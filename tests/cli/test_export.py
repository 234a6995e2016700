"""`pixcrawler export`, and the display of exports: called in this process with real services."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import ledger
import pytest
import redis
from calls import DEAD, call, sent
from doubles import query
from export import exporting
from export.exporting import StoredImage, image_bytes

from pixcrawler_worker.cli import job_status
from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def job(runtime: Runtime) -> int:
    return exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(12)], name="my cats")


def test_it_writes_the_row_sends_the_message_and_prints_the_id(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, job: int
) -> None:
    Path("options.json").write_text('{"select": {"limit": 5}, "layout": "flat"}')
    result = call(env, "export", str(job), "--options", "options.json", "--format", "tar", "--layout", "webdataset")
    export_id = int(result.stdout)
    assert sent(broker, "export") == [("pixcrawler.export.start", [export_id])]
    assert query(runtime, "SELECT crawl_job_id, status, name, format, export_options FROM export_jobs") == [
        (job, "pending", "my cats", "tar", {"select": {"limit": 5}, "layout": "webdataset"})
    ]
    ((owner, project_owner),) = query(
        runtime, "SELECT e.user_id, p.user_id FROM export_jobs e, crawl_jobs c JOIN projects p ON p.id = c.project_id"
    )
    assert owner == project_owner
    # Should the message get lost, a sweep finds it.
    assert query(runtime, "SELECT export_job_id FROM pixcrawler.export_plans") == [(export_id,)]


def test_texts_that_postgresql_cannot_hold_are_stored_as_far_as_they_can_be(
    env: Mapping[str, str], runtime: Runtime, job: int
) -> None:
    Path("options.json").write_text('{"select": {"labels": ["cat\\ud800"]}}')
    words = ["export", str(job), "--options", "options.json", "--name", os.fsdecode(b"caf\xe9")]
    assert call(env, *words).exit_code == 0
    assert query(runtime, "SELECT name, export_options FROM export_jobs") == [
        ("caf?", {"select": {"labels": ["cat?"]}})
    ]


def test_options_of_an_editor_that_marks_utf_8_are_read(env: Mapping[str, str], runtime: Runtime, job: int) -> None:
    Path("options.json").write_text('{"layout": "flat"}', encoding="utf-8-sig")
    result = call(env, "export", str(job), "--options", "options.json")
    assert result.exit_code == 0, result.output
    assert query(runtime, "SELECT export_options FROM export_jobs") == [({"layout": "flat"},)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("zip", {})),
        (["--format", "TAR"], ("tar", {})),
        (["--format", "Csv"], ("csv", {})),
        (["--layout", "webdataset"], ("tar", {"layout": "webdataset"})),
        (["--layout", "WebDataset"], ("tar", {"layout": "WebDataset"})),
        (["--layout", "table"], ("csv", {"layout": "table"})),
        (["--layout", "coco"], ("zip", {"layout": "coco"})),
        (["--layout", "coco", "--format", "tar"], ("tar", {"layout": "coco"})),
        (["--options", "table.json"], ("csv", {"layout": "table"})),
        (["--options", "table.json", "--layout", "auto"], ("zip", {"layout": "auto"})),
        (["--resize", "512"], ("zip", {"image": {"resize": {"size": 512}}})),
        (["--convert", "JPEG"], ("zip", {"image": {"format": "JPEG"}})),
        (["--convert", "Keep"], ("zip", {"image": {"format": "Keep"}})),
        (
            ["--options", "image.json", "--resize", "64", "--convert", "png"],
            ("zip", {"image": {"quality": 80, "format": "png", "resize": {"mode": "pad", "size": 64}}}),
        ),
        (
            ["--split", "train=0.8, val=0.1,test=.1"],
            ("zip", {"splits": {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}}}),
        ),
        (["--name-template", "{label}-{index}"], ("zip", {"name_template": "{label}-{index}"})),
        (["--failures"], ("zip", {"extras": {"failures": True}})),
        (["--no-failures"], ("zip", {"extras": {"failures": False}})),
        (["--exclude", "marks.json"], ("zip", {"select": {"exclude_images": ["ab" * 32, "cd" * 32]}})),
        (["--exclude", "digests.json"], ("zip", {"select": {"exclude_images": ["ef" * 32]}})),
        (["--only-valid"], ("zip", {"select": {"only_valid": True}})),
        (["--all"], ("zip", {"select": {"only_valid": False, "exclude_flags": []}})),
    ],
)
def test_options_are_arguments_and_a_layout_has_a_format_of_its_own(
    env: Mapping[str, str], runtime: Runtime, job: int, words: list[str], expected: tuple[str, object]
) -> None:
    Path("table.json").write_text('{"layout": "table"}')
    Path("image.json").write_text('{"image": {"quality": 80, "format": "jpg", "resize": {"mode": "pad", "size": 32}}}')
    marks = [{"id": 3, "sha256": "AB" * 32}, "cd" * 32, {"sha256": "ab" * 32, "why": "blurry"}]
    Path("marks.json").write_text(json.dumps({"version": 1, "exclude_images": marks}), encoding="utf-8-sig")
    Path("digests.json").write_text(json.dumps(["ef" * 32]))
    result = call(env, "export", str(job), *words)
    assert result.exit_code == 0, result.output
    assert query(runtime, "SELECT format, export_options FROM export_jobs") == [expected]


def test_with_a_dead_broker_the_job_is_stored_and_one_line_says_so(
    env: Mapping[str, str], runtime: Runtime, job: int
) -> None:
    result = call({**env, **DEAD}, "export", str(job), "--name", "dogs")
    assert result.exit_code == 0
    assert f"export {int(result.stdout)} is stored, and the next sweep of a worker starts it" in result.stderr
    assert "hunter2" not in result.stderr
    assert query(runtime, "SELECT name FROM export_jobs") == [("dogs",)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the id of a crawl JOB, or --layouts, or --schema"),
        (("1", "--layout", "flatt"), "export_options.layout: there is no layout 'flatt'; did you mean 'flat'?"),
        (("1", "--layout", "point"), "there is no layout 'point'; known are auto, coco, flat, imagefolder,"),
        (("1", "--format", "csv", "--layout", "flat"), "layout: flat is delivered as tar, zip, not as csv"),
        (("1", "--format", "rar"), "'rar' is not one of 'zip', 'tar', 'csv'"),
        (("1", "--format", "zip", "--layout", "table"), "layout: table is delivered as csv, not as zip"),
        (("1", "--name-template", "{index}.jpg"), "export_options.name_template: names have no dot"),
        (("1", "--resize", "5"), "export_options.image.resize.size: expected an integer from 8 to 4096, got 5"),
        (
            ("1", "--convert", "jpgg"),
            "export_options.image.format: there is no image format 'jpgg'; did you mean 'jpg'?",
        ),
        (("1", "--convert", "heic"), "heic can be read only; images are written as jpg, png,"),
        (("1", "--split", "train"), "expected splits such as train=0.8,val=0.1,test=0.1, got 'train'"),
        (("1", "--split", "train=most"), "expected splits such as train=0.8,val=0.1,test=0.1, got 'train=most'"),
        (("1", "--split", "train=1,train=2"), "the split 'train' is there twice"),
        (("1", "--split", "train=0"), "export_options.splits.ratios.train: expected a number above 0"),
        (("1", "--options", "odd.json", "--resize", "64"), "export_options.image: expected an object, got an array"),
        (("1", "--options", "absent.json"), "No such file"),
        (("1", "--exclude", "absent.json"), "No such file"),
        (("1", "--exclude", "broken.json"), "broken.json is not valid JSON"),
        (("1", "--exclude", "odd.json"), "odd.json: expected an array of SHA-256, or an object with one as exclude_"),
        (("1", "--exclude", "ids.json"), "ids.json: [1]: expected a SHA-256 in 64 hexadecimal digits, got 3"),
        (("1", "--exclude", "newer.json"), "newer.json: this program reads lists of version 1, got version 2"),
        (("1", "--exclude", "marks.json"), "marks.json: [0]: expected a SHA-256 in 64 hexadecimal digits, got null"),
        (("1", "--options", "broken.json"), "broken.json is not valid JSON"),
        (("1", "--options", "list.json"), "list.json: expected a JSON object, got list"),
        (("one",), "expected an integer, got 'one'"),
    ],
)
def test_invalid_arguments_create_nothing(
    env: Mapping[str, str], runtime: Runtime, words: tuple[str, ...], message: str
) -> None:
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("odd.json").write_text('{"image": []}')
    Path("newer.json").write_text('{"version": 2, "exclude_images": []}')
    Path("ids.json").write_text(json.dumps(["ab" * 32, 3]))
    Path("marks.json").write_text('{"exclude_images": [{"id": 3}]}')
    result = call(env, "export", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert query(runtime, "SELECT count(*) FROM export_jobs") == [(0,)]


def test_a_missing_job_is_an_error(env: Mapping[str, str], runtime: Runtime) -> None:
    with pytest.raises(PermanentError, match="there is no crawl job 424242; `pixcrawler jobs list`"):
        call(env, "export", "424242")
    for command in ("show", "watch"):
        with pytest.raises(PermanentError, match="there is no export job 424242"):
            call(env, "jobs", command, "export:424242")


def test_layouts_are_listed_with_their_readers(env: Mapping[str, str]) -> None:
    lines = call(env, "export", "--layouts").stdout.splitlines()
    names = {line.split()[0] for line in lines}
    assert {
        "imagefolder",
        "webdataset",
        "table",
        "flat",
        "yolo",
        "coco",
        "label_studio",
        "parquet",
        "tfrecord",
    } <= names
    assert any("torchvision" in line for line in lines)
    assert max(map(len, lines)) <= 110


def test_the_schema_is_printed(env: Mapping[str, str]) -> None:
    assert "select" in json.loads(call(env, "export", "--schema").stdout)["properties"]


def test_an_export_is_shown_listed_and_watched(env: Mapping[str, str], runtime: Runtime, job: int) -> None:
    ref = exporting.export(runtime, job, {"archive": {"part_max_images": 5}})
    row = exporting.row(runtime, ref)
    lines = call(env, "jobs", "show", f"export:{ref.id}").stdout
    shown = " ".join(lines.split())
    assert f"export {ref.id} My images, of job {job}" in shown
    assert "12 of 12" in shown
    assert "part-00002-of-00003.zip 2 images" in shown
    assert lines.splitlines()[-1] == row.download_url, "in one piece, to be copied"
    output = json.loads(call(env, "jobs", "show", f"export:{ref.id}", "--json").stdout)
    assert output["export_options"]["result"]["images"] == 12
    assert output["chunks"] == {"completed": 4}
    assert f"{ref.id} completed: 12 images as zip" in " ".join(call(env, "jobs", "show", str(job)).stdout.split())
    watched = call(env, "jobs", "watch", f"export:{ref.id}")
    assert watched.exit_code == 0
    assert f"export {ref.id} completed" in watched.stdout
    assert "3 files, " in watched.stdout
    failed = exporting.make_export(runtime, job, {"layout": "nonsense"})
    submission.start(runtime, EXPORT, failed.id)
    watched = call(env, "jobs", "watch", f"export:{failed.id}")
    assert (watched.exit_code, "there is no layout 'nonsense'" in watched.stdout) == (1, True)
    assert job_status.require(runtime.sessions, ExportView, failed.id).status == "failed"

"""`pixcrawler validate`, and the display of validations: called in this process with real services."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import ledger
import pytest
import redis
from browser import requires_chromium
from calls import DEAD, call, sent
from doubles import query
from hypothesis import given
from hypothesis import strategies as st
from reports import accessible, adds_up, fits, harmless, read
from validate import corpus, validation_jobs

from pixcrawler_worker.cli import job_status
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.validation_results import ValidatedImage
from pixcrawler_worker.domain.checks import Finding, Severity
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import report, rules
from pixcrawler_worker.validate.kind import VALIDATION


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def job(runtime: Runtime) -> int:
    """A crawl job with images of every kind."""
    made = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, made, [*list(corpus.clean())[:6], *corpus.defective()])
    return made


def test_it_writes_the_row_sends_the_message_and_prints_the_id(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, job: int
) -> None:
    Path("rules.json").write_text('{"checks": {"blurry": false}, "level": "basic"}')
    result = call(env, "validate", str(job), "--rules", "rules.json", "--level", "strict", "--mode", "report_only")
    validation_id = int(result.stdout)
    assert sent(broker, "validation") == [("pixcrawler.validation.start", [validation_id])]
    assert query(runtime, "SELECT crawl_job_id, status, name, validation_rules FROM validation_jobs") == [
        (job, "pending", "strict", {"checks": {"blurry": False}, "level": "strict", "mode": "report_only"})
    ]
    # Should the message get lost, a sweep finds it.
    assert query(runtime, "SELECT validation_job_id FROM pixcrawler.validation_plans") == [(validation_id,)]


def test_with_a_dead_broker_the_job_is_stored_and_one_line_says_so(
    env: Mapping[str, str], runtime: Runtime, job: int
) -> None:
    result = call({**env, **DEAD}, "validate", str(job))
    assert result.exit_code == 0
    assert f"validation {int(result.stdout)} is stored, and the next sweep of a worker starts it" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the id of a crawl JOB, or --schema"),
        (["1", "--rules", "slip.json"], "validation_rules.checks.blury: unknown option, did you mean 'blurry'?"),
        (["1", "--rules", "half.json"], "half.json is not valid JSON"),
        (["1", "--rules", "list.json"], "list.json: expected a JSON object, got list"),
        (["1", "--rules", "absent.json"], "absent.json"),
        (["1", "--rules", "classifier.json"], "there is no classifier 'watermark'"),
        (["1", "--level", "hard"], "hard"),
    ],
)
def test_invalid_arguments_create_nothing(
    env: Mapping[str, str], runtime: Runtime, words: list[str], message: str
) -> None:
    Path("slip.json").write_text('{"checks": {"blury": true}}')
    Path("half.json").write_text('{"checks": ')
    Path("list.json").write_text("[]")
    Path("classifier.json").write_text('{"classifiers": {"watermark": {}}}')
    result = call(env, "validate", *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert query(runtime, "SELECT count(*) FROM validation_jobs") == [(0,)]


def test_there_must_be_a_crawl_job(env: Mapping[str, str], broker: redis.Redis) -> None:
    with pytest.raises(PermanentError, match="there is no crawl job 424242"):
        call(env, "validate", "424242")
    assert sent(broker, "validation") == []


def test_a_name_that_is_not_utf_8_is_stored_as_far_as_it_can_be(
    env: Mapping[str, str], runtime: Runtime, job: int
) -> None:
    assert call(env, "validate", str(job), "--name", os.fsdecode(b"caf\xe9")).exit_code == 0
    assert query(runtime, "SELECT name FROM validation_jobs") == [("caf?",)]


def test_rules_of_an_editor_that_marks_utf_8_are_read(env: Mapping[str, str], runtime: Runtime, job: int) -> None:
    Path("rules.json").write_text('{"level": "strict"}', encoding="utf-8-sig")
    result = call(env, "validate", str(job), "--rules", "rules.json")
    assert result.exit_code == 0, result.output
    assert query(runtime, "SELECT validation_rules FROM validation_jobs") == [({"level": "strict"},)]


def test_the_schema_is_printed_without_any_service() -> None:
    schema = json.loads(call({}, "validate", "--schema").stdout)
    assert "blurry" in schema["$defs"]["Checks"]["properties"]


def test_a_validation_is_shown_with_counts_per_check(env: Mapping[str, str], runtime: Runtime, job: int) -> None:
    ref = validation_jobs.validate(runtime, job, {"level": "strict"})
    shown = " ".join(call(env, "jobs", "show", f"validation:{ref.id}").stdout.split())
    assert f"validation {ref.id} check, of job {job}" in shown
    assert "status completed, 100 %" in shown
    assert "9 decode" in shown
    assert "2 exact_duplicate" in shown
    output = json.loads(call(env, "jobs", "show", f"validation:{ref.id}", "--json").stdout)
    assert (output["crawl_job_id"], output["counts"]["decode"], output["chunks"]) == (job, 9, {"completed": 2})
    of_the_job = json.loads(call(env, "jobs", "show", str(job), "--json").stdout)["validations"]
    assert [one["id"] for one in of_the_job] == [ref.id]


def test_watch_exits_as_the_validation_ends(env: Mapping[str, str], runtime: Runtime, job: int) -> None:
    ref = validation_jobs.validate(runtime, job)
    result = call(env, "jobs", "watch", f"validation:{ref.id}")
    total = 6 + len(list(corpus.defective()))
    first, second, third = result.stdout.splitlines()
    assert result.exit_code == 0
    assert first.startswith(f"validation {ref.id} completed in ")
    assert f"{total} of {total} images validated, 2 of 2 chunks" in first
    assert second == "valid: {1}, invalid: {2}".format(*validation_jobs.counted(runtime, ref)[2:])
    assert third.startswith("findings: 9 decode, ")
    invalid = validation_jobs.make_validation(runtime, job, {"level": 7})
    submission.start(runtime, VALIDATION, invalid.id)
    result = call(env, "jobs", "watch", f"validation:{invalid.id}")
    assert (result.exit_code, 'validation_rules.level: expected "basic", ' in result.stdout) == (1, True)


def test_a_missing_job_is_an_error(env: Mapping[str, str], runtime: Runtime, tmp_path: Path) -> None:
    for command in ("show", "watch"):
        with pytest.raises(PermanentError, match="there is no validation job 424242"):
            call(env, "jobs", command, "validation:424242")
    with pytest.raises(UnknownJobError):
        report.write_validation_report(runtime, 424242, tmp_path / "page.html")
    assert call(env, "jobs", "show", "archive:1").exit_code == 2


@requires_chromium
def test_the_report_shows_histograms_flagged_images_and_duplicates(runtime: Runtime, job: int, tmp_path: Path) -> None:
    ledger.execute(runtime.sessions, "UPDATE images SET filename = '<b>x</b>.jpg' WHERE filename = 'dark.jpg'")
    ref = validation_jobs.validate(runtime, job, {"level": "strict", "checks": {"odd_size": {"min_images": 20}}})
    path = report.write_validation_report(runtime, ref.id, tmp_path / "page.html")
    page = path.read_text()
    assert "<b>x</b>" not in page
    assert page.count('<svg class="hist"') == 5
    assert "<h3>blurry: blurred <small>" in page
    assert "<h3>decode: file missing, or not decodable <small>8 of 9</small></h3>" in page
    assert "<h2>Duplicates <small>" in page
    found = read(path)
    harmless(found)
    accessible(found)
    adds_up(found)
    validated = job_status.require(runtime.sessions, ValidationView, ref.id)
    assert validated.invalid_images > 10
    assert found.tables["Images"] == {
        "valid": validated.validated_images,
        "invalid": validated.invalid_images,
        "total": validated.total_images,
    }
    assert found.tables["Invalid images by label"]["total"] == validated.invalid_images
    # The color of a bar and the count next to it say the same as the findings.
    for check, metric in (("dark", "Brightness"), ("blurry", "Sharpness"), ("light", "Brightness")):
        ((flagged,),) = query(
            runtime,
            "SELECT count(*) FROM pixcrawler.verdicts, jsonb_array_elements(findings) f"
            " WHERE validation_job_id = :id AND f->>0 = :check",
            id=ref.id,
            check=check,
        )
        titles = re.findall(rf"{metric} <small>[^;]+; ([0-9,]+) of [0-9,]+ images flagged", page)
        assert f"{flagged}" in titles, check
    assert re.search(r"brightness [0-9.]+, flagged below 0.32", found.text)
    fits(path, tmp_path)


@given(values=st.lists(st.floats(-1, 9), min_size=1, max_size=50), threshold=st.none() | st.floats(0, 1))
def test_a_histogram_shows_flagged_images_in_their_color(values: list[float], threshold: float | None) -> None:
    """Also those near the threshold, and those outside of the range."""
    limit = -1 if threshold is None else threshold
    results = [
        ValidatedImage(
            id=number, filename="a.jpg", storage_url=None, label="a", valid=True, width=1, height=1, keeper_id=None,
            findings=(
                Finding("grayscale", Severity.INFO, 0, 8),
                *((Finding("blurry", Severity.WARN, value, limit),) if value < limit else ()),
            ),
            metrics={"sharpness": value}, original_url="", page_url=None,
        )
        for number, value in enumerate(values)
    ]  # fmt: skip
    checks = {"blurry": False if threshold is None else {"score_below": threshold}}
    drawn = "".join(report.histograms(results, rules.parse({"level": "basic", "checks": checks})))
    flagged = sum(value < limit for value in values)
    assert ('class="bad"' in drawn) == bool(flagged)
    assert ("<rect x=" in drawn) == (flagged < len(values))
    if threshold is not None:
        assert f"{flagged} of {len(values)} images flagged below" in drawn


def test_deleted_images_are_counted_in_the_report(runtime: Runtime, job: int, tmp_path: Path) -> None:
    ref = validation_jobs.validate(runtime, job)
    total = validation_jobs.counted(runtime, ref)[2]
    ledger.execute(runtime.sessions, "DELETE FROM images WHERE id IN (SELECT id FROM images ORDER BY id LIMIT 5)")
    found = read(report.write_validation_report(runtime, ref.id, tmp_path / "page.html"))
    adds_up(found)
    rows = found.tables["Images"]
    assert sum(count for name, count in rows.items() if name.endswith("deleted since")) >= total - rows["total"] >= 0
    assert f"{rows['total']}images" in found.text

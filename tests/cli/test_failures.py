"""`pixcrawler jobs failures`, called in this process with a real database behind it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from calls import call
from factories import make_job
from sqlalchemy import select

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import Note, Notes
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.db import candidates, crawls
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.private_models import CrawlCandidate
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.list_columns import MAX_CAPTION
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.errors import PermanentError

HEADINGS = ["url", "label", "reason", "detail", "http_status", "retriable", "attempts", "time"]


def rejected(
    url: str, reason: str, *, status: int | None = None, retriable: bool = False, label: str = "cat"
) -> Outcome:
    return Outcome(
        url_hash=url_hash(url),
        reason=reason,
        retriable=retriable,
        url=url,
        label=label,
        detail=f"{reason} at {url}",
        http_status=status,
    )


def record(sessions: Sessions, job_id: int, outcomes: Sequence[Outcome]) -> None:
    transact(sessions, lambda session: candidates.record(session, job_id, outcomes))


@pytest.fixture
def job_id(sessions: Sessions) -> int:
    """A job with an image, three kinds of rejections, and one whose URL was not kept."""
    found = make_job(sessions)
    outcomes = [
        Outcome(url_hash=url_hash("image")),
        rejected("http://a.example/1.jpg", "timeout", retriable=True),
        rejected("http://a.example/2,3.jpg", "not_found", status=404, label='a "cat", or\nnot'),
        rejected("=HYPERLINK(1)\n2", "bad_url"),
        Outcome(url_hash=url_hash("not kept"), reason="timeout", retriable=True),
    ]
    record(sessions, found, outcomes)
    # Another attempt with the same end.
    record(sessions, found, [outcomes[1]])
    record(sessions, make_job(sessions), [rejected("http://other.example/", "timeout")])
    return found


def test_csv_has_all_that_is_known_of_each_failure(env: Mapping[str, str], job_id: int) -> None:
    called = call(env, "jobs", "failures", str(job_id))
    rows = list(csv.reader(io.StringIO(called.stdout)))
    assert rows[0] == HEADINGS
    by_reason = {(row[2], row[0]): row for row in rows[1:]}
    assert len(by_reason) == 4
    url, label, _, detail, status, retriable, attempts, time = by_reason["not_found", "http://a.example/2,3.jpg"]
    assert (url, label, detail) == (
        "http://a.example/2,3.jpg",
        'a "cat", or not',
        "not_found at http://a.example/2,3.jpg",
    )
    assert (status, retriable, attempts) == ("404", "False", "1")
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(time) < timedelta(minutes=1)
    assert by_reason["timeout", "http://a.example/1.jpg"][5:7] == ["True", "2"]
    assert ("bad_url", "'=HYPERLINK(1)%0A2") in by_reason, "spreadsheets would evaluate it"
    assert "the URLs of 1 are not known" in called.stderr


def test_json_lines_have_the_same(env: Mapping[str, str], job_id: int) -> None:
    called = call(env, "jobs", "failures", str(job_id), "--format", "JSONL")
    rows = {row["url"]: row for row in map(json.loads, called.stdout.splitlines())}
    assert len(rows) == 4
    assert list(rows[None]) == HEADINGS
    assert rows["=HYPERLINK(1)%0A2"]["reason"] == "bad_url"
    assert rows["http://a.example/1.jpg"]["retriable"] is True


def test_text_is_a_list_of_urls(env: Mapping[str, str], job_id: int) -> None:
    called = call(
        env, "jobs", "failures", str(job_id), "--format", "txt", "--reason", "timeout", "--reason", "not_found"
    )
    assert set(called.stdout.splitlines()) == {"http://a.example/1.jpg", "http://a.example/2,3.jpg"}
    called = call(env, "jobs", "failures", str(job_id), "--format", "txt", "--retriable")
    assert called.stdout.splitlines() == ["http://a.example/1.jpg"]


def test_many_failures_are_read_in_pages(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions)
    record(sessions, job_id, [rejected(f"http://a.example/{number}", "timeout") for number in range(2500)])
    lines = call(env, "jobs", "failures", str(job_id), "--format", "txt").stdout.splitlines()
    assert sorted(lines) == sorted(f"http://a.example/{number}" for number in range(2500))


DETAILS: list[Mapping[str, Any] | None] = [
    {
        "caption": "=1+1; 'a' \"cat\",\nor not \u202e\U0001f408",
        "columns": {"id": 7, "tags": ["a", {"b": None}], "=1": "=2"},
    },
    {"caption": "x" * 100_000},
    {"columns": {"columns": {"url": "https://b.example/"}, "url": "https://c.example/", "caption": "of the list"}},
    None,
]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_failures_are_a_list_with_all_that_the_list_of_the_job_said(
    env: Mapping[str, str], sessions: Sessions, form: str
) -> None:
    job_id = make_job(sessions)
    failed = [
        replace(rejected(f"http://a.example/{at}.jpg", "timeout", label=f"label {at}"), list_details=details)
        for at, details in enumerate(DETAILS)
    ]
    record(sessions, job_id, [*failed, Outcome(url_hash=url_hash("not kept"), reason="timeout", retriable=True)])
    printed = call(env, "jobs", "failures", str(job_id), "--format", form).stdout
    rows = {row.url: row for row in reading.read(io.BytesIO(printed.encode()), "list")}
    assert len(rows) == len(DETAILS)
    for at, (outcome, details) in enumerate(zip(failed, DETAILS, strict=True)):
        row = rows[str(outcome.url)]
        assert row.label == f"label {at}"
        known = details or {}
        assert row.caption == (safe(known["caption"], max_length=MAX_CAPTION) if "caption" in known else None)
        assert row.columns == known.get("columns", {})


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_failures_of_a_list_without_captions_have_no_columns(env: Mapping[str, str], job_id: int, form: str) -> None:
    printed = call(env, "jobs", "failures", str(job_id), "--format", form).stdout
    rows = list(reading.read(io.BytesIO(printed.encode()), "list"))
    assert len(rows) == 3
    assert {(row.caption, len(row.columns)) for row in rows} == {(None, 0)}


def test_a_list_of_failures_with_other_lines_is_rejected() -> None:
    line = {"url": "https://a.example/1.jpg", "reason": "timeout", "retriable": True, "attempts": 1}
    for other in ('{"url": "https://a.example/2.jpg"}', "{", '{"url": 7, "reason": "", "retriable": 0, "attempts": 0}'):
        with pytest.raises(PermanentError, match=r"list, line 2: expected a line of failed\.jsonl, got"):
            list(reading.read(io.BytesIO(f"{json.dumps(line)}\n{other}\n".encode()), "list"))


def test_failures_that_another_program_has_saved_are_read_as_other_lists_are(
    env: Mapping[str, str], sessions: Sessions
) -> None:
    """A spreadsheet writes the encoding of its country, and JSON may have what PostgreSQL does not store."""
    job_id = make_job(sessions)
    details = {"caption": "caf\xe9 noir", "columns": {"na\xefve": {"d\xe9j\xe0": ["\xe9t\xe9", 1]}}}
    record(
        sessions,
        job_id,
        [replace(rejected("http://a.example/1.jpg", "timeout", label="caf\xe9"), list_details=details)],
    )
    printed = call(env, "jobs", "failures", str(job_id), "--format", "csv").stdout
    notes = Notes()
    (row,) = reading.read(io.BytesIO(printed.encode("cp1252")), "list", notes=notes)
    assert (row.caption, row.label, row.columns) == ("caf\xe9 noir", "caf\xe9", details["columns"])
    assert notes.counts[Note.NOT_UTF_8] > 0


def test_failures_have_nothing_that_cannot_be_stored(sessions: Sessions) -> None:
    odd = "a\x00\ud83d"
    line = {"url": f"https://a.example/{odd}.jpg", "reason": "timeout", "retriable": True, "attempts": 1}
    line |= {"label": odd, "caption": odd, "columns": {odd: [odd, {odd: odd}], "n": 1}}
    with StoredList(reading.read(io.BytesIO(json.dumps(line).encode()), "list")) as listed:
        (row,) = listed.page(0, 10)
        assert row.url == "https://a.example/a?.jpg"
        assert (row.label, row.caption) == ("a?", "a?")
        assert row.columns == {"a?": ["a?", {"a?": "a?"}], "n": 1}
        job_id = make_job(sessions)
        transact(sessions, lambda session: crawls.record_request(session, job_id, options={}, pages=listed.pages(10)))
    with sessions.begin() as session:
        assert [one.details() for one in crawls.listed(session, job_id)] == [row.details()]


def test_rows_of_an_earlier_version_are_listed(env: Mapping[str, str], sessions: Sessions, job_id: int) -> None:
    def forget(session: object) -> None:
        for row in session.scalars(select(CrawlCandidate).where(CrawlCandidate.crawl_job_id == job_id)):  # type: ignore[attr-defined]
            row.tried_at, row.label, row.detail = None, None, None

    transact(sessions, forget)
    assert len(call(env, "jobs", "failures", str(job_id), "--format", "jsonl").stdout.splitlines()) == 4


def test_what_has_no_failures_is_named(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions)
    assert call(env, "jobs", "failures", str(job_id)).stdout.splitlines() == [",".join(HEADINGS)]
    assert call(env, "jobs", "failures", str(job_id), "--format", "txt").stdout == ""
    with pytest.raises(PermanentError, match="there is no crawl job 2000000000"):
        call(env, "jobs", "failures", "2000000000")
    with pytest.raises(PermanentError, match="expected the id of a crawl job"):
        call(env, "jobs", "failures", "export:1")
    assert call(env, "jobs", "failures", str(job_id), "--reason", "other").exit_code == 2

"""Random JSON in every column that an API writes, and in the ledger: each row ends its own job, and nothing else.

`make test-scale` does it with 10,000 rows. The seed is fixed, so that a failure can be repeated.
"""

import random
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import ledger
import pytest
import random_json
import structlog
from factories import make_job, start_job
from sqlalchemy import text

from pixcrawler_worker import runtime as runtimes
from pixcrawler_worker import settings
from pixcrawler_worker.cli import job_status
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

SEED = 20_261_126
#: What a row says of its end: the column or argument, and where it is inside of it.
NAMED = re.compile(
    r"^(keywords|max_images|options|validation_rules|export_options|format|source|a URL list|no source"
    r"|crawl job \d+ has no images)"
)
KEYWORDS: object = ["cat", {"query": "red panda", "label": "panda", "max_images": 20}]
CRAWL_OPTIONS: object = {
    "sources": ["urls"], "licenses": ["cc0"], "min_width": 10, "min_height": 10, "formats": ["jpg"], "chunk_size": 10,
    "max_rounds": 3, "safe_search": False,
}  # fmt: skip
RULES: object = {
    "version": 1, "level": "strict", "mode": "lenient", "sample": 10, "classifiers": {"nsfw": {"score_above": 0.5}},
    "checks": {
        "decode": {"max_pixels": 1000, "max_frames": 5, "timeout_s": 2.5}, "formats": {"allow": ["jpg"]},
        "aspect_ratio": {"max_ratio": 2.5, "severity": "error"}, "blocked_hash": {"sha256": ["0" * 64], "phash": []},
        "near_duplicate": {"max_distance": 2}, "dark": {"p99_below": 0.1},
        "required_metadata": {"fields": ["source_url"]}, "blurry": False,
    },
}  # fmt: skip
EXPORT_OPTIONS: object = {
    "version": 1, "layout": "auto", "max_files_per_dir": 100, "url_ttl_s": 600,
    "select": {"limit": 5, "labels": ["cat"], "licenses": ["cc0"], "min_width": 1, "exclude_flags": ["dark"],
               "exclude_images": ["0" * 64]},
    "splits": {"ratios": {"train": 0.8, "test": 0.2}, "seed": 7, "by": "image", "stratify": "label"},
    "image": {"format": "jpg", "resize": {"mode": "fit", "size": 64}, "quality": 80, "background": "#000000"},
    "archive": {"part_max_bytes": 1000000, "part_max_images": 5}, "extras": {"images_csv": True},
    "result": {"files": ["a"]},
}  # fmt: skip
NAMES = ("job", "\x01\x1f\x7f", "\u202e\u2028", "[bold]x[/bold]", "x" * 100, "", "'; --", "%s {0}")
MAX_IMAGES = (-(2**31), -1, 0, 1, 2**31 - 1)


@pytest.fixture(name="runtime")
def pending_rows_started(database_url: str, tmp_path: Path) -> Iterator[Runtime]:
    loaded = settings.load(
        database_url=database_url,
        data_dir=tmp_path,
        start_pending=True,
        lease_seconds=1,
        commons_url="http://127.0.0.1:1/",
        openverse_url="http://127.0.0.1:1/",
    )
    # Rows are counted, not read: a line for each would take longer than the row.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        with closing(runtimes.connect(loaded)) as opened:
            ledger.execute(opened.sessions, "DELETE FROM profiles")
            yield opened
    finally:
        structlog.reset_defaults()


def insert(sessions: Sessions, statement: str, **values: object) -> int:
    with sessions.begin() as session:
        return int(session.scalar(text(statement), values) or 0)


def random_rows(rng: random.Random, sessions: Sessions, count: int) -> list[JobRef]:
    """Insert pending jobs of all kinds, requested an hour ago, with odd values in all columns that an API writes."""
    parent = make_job(sessions, status="completed", name="parent")
    project, user = ledger.row(
        sessions,
        "SELECT p.id, p.user_id FROM projects p JOIN crawl_jobs j ON j.project_id = p.id WHERE j.id = :id",
        id=parent,
    )
    made: list[JobRef] = []
    for _ in range(count):
        name, kind = rng.choice(NAMES), rng.choice(tuple(JOB_KINDS))
        table = JOB_KINDS[kind].table
        match kind:
            case "crawl":
                keywords = random_json.mutated(rng, KEYWORDS) if rng.random() < 0.6 else ["cat"]
                max_images = rng.choice(MAX_IMAGES) if rng.random() < 0.2 else 10
                job_id = insert(
                    sessions,
                    "INSERT INTO crawl_jobs (project_id, name, keywords, max_images, task_ids, created_at)"
                    " VALUES (:project, :name, CAST(:keywords AS jsonb), :max_images, CAST(:task_ids AS jsonb),"
                    " now() - interval '1 h') RETURNING id",
                    project=project,
                    name=name,
                    keywords=random_json.text(keywords),
                    max_images=max_images,
                    task_ids=random_json.text(random_json.value(rng)),
                )
                ledger.execute(
                    sessions,
                    "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, options, requested_at)"
                    " VALUES (:id, CAST(:options AS jsonb), now() - interval '1 h')",
                    id=job_id,
                    options=random_json.text(random_json.mutated(rng, CRAWL_OPTIONS)),
                )
            case "validation":
                job_id = insert(
                    sessions,
                    "INSERT INTO validation_jobs (crawl_job_id, name, validation_rules, created_at)"
                    " VALUES (:parent, :name, CAST(:rules AS jsonb), now() - interval '1 h') RETURNING id",
                    parent=parent,
                    name=name,
                    rules=random_json.text(random_json.mutated(rng, RULES)),
                )
            case _:
                job_id = insert(
                    sessions,
                    "INSERT INTO export_jobs (crawl_job_id, user_id, name, format, export_options, created_at)"
                    " VALUES (:parent, :user, :name, :format, CAST(:options AS jsonb), now() - interval '1 h')"
                    " RETURNING id",
                    parent=parent,
                    user=user,
                    name=name,
                    format=rng.choice(("zip", "ZIP", "tar", "csv", "", "\x01", "rar", "x" * 20)),
                    options=random_json.text(random_json.mutated(rng, EXPORT_OPTIONS)),
                )
        made.append(table.ref(job_id))
    return made


def lost_job(runtime: Runtime) -> JobRef:
    """A running job whose messages were lost an hour ago."""
    ref = JobRef(CRAWL.table, make_job(runtime.sessions, name="lost"))
    submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/a.jpg"]})
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET dispatched_at = now() - interval '1 h' WHERE crawl_job_id = :id",
        id=ref.id,
    )
    return ref


def ends(sessions: Sessions, refs: list[JobRef]) -> dict[JobRef, tuple[str, str]]:
    """Return the status of each job, and the reason that its row or its activity log has."""
    found: dict[JobRef, tuple[str, str]] = {}
    with sessions.begin() as session:
        for kind in JOB_KINDS.values():
            name = kind.table.name
            error = "NULL" if name == "crawl" else "j.error_message"
            query = (
                f"SELECT j.id, j.status, coalesce({error}, a.metadata_->>'reason')"
                f" FROM {name}_jobs j LEFT JOIN activity_logs a ON a.resource_type = '{name}_job'"
                f" AND a.resource_id = j.id::text AND a.action = '{name}_job.failed'"
            )
            rows = session.execute(text(query)).all()
            found |= {kind.table.ref(job_id): (status, reason or "") for job_id, status, reason in rows}
    return {ref: found[ref] for ref in refs}


def check_rows(runtime: Runtime, count: int) -> None:
    rng = random.Random(SEED)
    refs = random_rows(rng, runtime.sessions, count // 2)
    lost = lost_job(runtime)
    refs += random_rows(rng, runtime.sessions, count - count // 2)
    setbacks, started, sweeps = Setbacks(), time.monotonic(), 0
    while True:
        swept = sweeper.sweep(runtime, JOB_KINDS.values(), setbacks=setbacks)
        sweeps += 1
        assert swept.failed == 0, "invalid rows are no errors"
        assert (swept.redispatched == 1) == (sweeps == 1), "the lost job recovers within one sweep"
        if not swept.unfinished:
            break
    seconds = time.monotonic() - started
    log.info("random rows", rows=count, sweeps=sweeps, seconds=round(seconds, 1))
    by_end = ends(runtime.sessions, refs)
    odd = {str(ref): end for ref, end in by_end.items() if end[0] != "running" and not NAMED.match(end[1])}
    assert odd == {}
    assert {status for status, _ in by_end.values()} <= {"failed", "running"}
    running = [ref for ref, (status, _) in by_end.items() if status == "running"]
    assert all(ref.table.name == "crawl" for ref in running), "what is valid has sources, and is planned"
    assert len(running) < count / 10
    assert len({reason.partition(":")[0] for _, reason in by_end.values()}) > min(count / 10, 30), "many fields"
    assert ledger.scalar(runtime.sessions, "SELECT status FROM crawl_jobs WHERE id = :id", id=lost.id) == "running"
    for ref in rng.sample(refs, min(count // 5, 400)):
        for as_json in (False, True):
            job_status.print_table(runtime.sessions, ref, as_json=as_json)


def test_every_row_with_random_json_ends_with_a_message_that_names_the_field(runtime: Runtime) -> None:
    check_rows(runtime, 300)


@pytest.mark.scale
@pytest.mark.timeout(1800)
def test_ten_thousand_rows_with_random_json_end_and_name_the_field(runtime: Runtime) -> None:
    check_rows(runtime, 10_000)


def test_options_of_a_message_fail_the_job_by_name_or_are_accepted(runtime: Runtime) -> None:
    rng = random.Random(SEED)
    odd: list[Any] = [
        float("nan"), float("inf"), -0.0, 10**5000, "\ud800", "a\x00", {"\ud800": 1}, {"a\x00": {}}, {1: 2}, [[]], True,
        {"urls": ["\ud800\x00"]}, {"sources": ["\ud800"]}, {"licenses": ["\x00"]}, {"formats": [float("nan")]},
        {"min_width": 1e400},
        {"urls": ["https://example.org/a.jpg"] * 20, "sources": ["urls", "\x00"]}, {"chunk_size": float("inf")},
    ]  # fmt: skip
    odd += [random_json.python(random_json.mutated(rng, CRAWL_OPTIONS)) for _ in range(40)]
    project = ledger.scalar(
        runtime.sessions, "SELECT project_id FROM crawl_jobs WHERE id = :id", id=make_job(runtime.sessions)
    )
    for given in odd:
        job_id = make_job(runtime.sessions, project_id=project)
        submission.start(runtime, CRAWL, job_id, given)
        ((status, reason),) = ends(runtime.sessions, [CRAWL.table.ref(job_id)]).values()
        assert status == "running" or NAMED.match(reason), (given, status, reason)
        # The same options for a job that has started, or ended.
        submission.start(runtime, CRAWL, job_id, given)


def write_ledger(sessions: Sessions, column: str, chunk_id: int, found: object) -> None:
    ledger.execute(
        sessions,
        f"UPDATE pixcrawler.chunks SET {column} = CAST(:found AS jsonb) WHERE id = :id",
        found=random_json.text(found),
        id=chunk_id,
    )


def crawl_with(runtime: Runtime, chunks: int) -> JobRef:
    ref = CRAWL.table.ref(make_job(runtime.sessions, max_images=chunks * 2))
    urls = [f"http://127.0.0.1:1/{number}.jpg" for number in range(chunks)]
    submission.start(runtime, CRAWL, ref.id, {"urls": urls, "chunk_size": 1})
    return ref


PAYLOADS: dict[str, dict[str, object]] = {
    "crawl": {"source": "urls", "query": "cat", "label": "cat", "page": 0, "page_size": 1, "quota": 1, "only": [0]},
    "validation": {"first": 1, "last": 2, "images": 2, "threshold": 7},
    "export": {"part": 0, "parts": 1, "first": 0, "last": 3, "name": "a.zip"},
}
#: Numbers that no payload lacks.
REQUIRED = {
    "crawl": ("page", "page_size", "quota"),
    "validation": ("first", "last"),
    "export": ("part", "first", "last"),
}
_COUNTS: dict[str, object] = {
    name: {"a": 1} for name in ("skipped", "labels", "splits", "formats", "licenses", "sources")
}
RESULTS: dict[str, object] = {
    "crawl": {"offered": 1, "stored": 0, "downloaded": 0, "reasons": {"bad_url": 1}, "left": [0], "more": False},
    "validation": {"counts": {"dark": 1}, "images": 2},
    "export": {"name": "a.zip", "size": 7, "sha256": "00", "table": ["a.csv", "00"], "images": 1, "image_bytes": 1}
    | _COUNTS,
}


def other_job(runtime: Runtime, kind: str) -> JobRef:
    """A running job of a kind with two chunks; a crawl job has its options recorded."""
    if kind == "crawl":
        return crawl_with(runtime, 2)
    return start_job(runtime.sessions, chunks=2, kind=JOB_KINDS[kind].table)


@pytest.mark.parametrize("kind", JOB_KINDS)
def test_a_chunk_with_random_json_as_payload_fails_with_a_reason(runtime: Runtime, kind: str) -> None:
    rng = random.Random(SEED)
    ref = other_job(runtime, kind)
    chunk_id, _ = ledger.ids_of(runtime.sessions, ref)
    for _ in range(10):
        field = rng.choice(sorted(REQUIRED[kind]))
        broken: object = PAYLOADS[kind] | {field: rng.choice(([], {}, None, True, "", random_json.Raw("1e400")))}
        if rng.random() < 0.5:
            broken = random_json.nested(rng)
        ledger.execute(
            runtime.sessions,
            "UPDATE pixcrawler.chunks SET state = 'queued', attempt = 0, error = NULL, result = NULL,"
            " lease_until = NULL, available_at = now() WHERE id = :id",
            id=chunk_id,
        )
        sweeper.sweep(runtime, JOB_KINDS.values())
        write_ledger(runtime.sessions, "payload", chunk_id, broken)
        executor.run(runtime, JOB_KINDS[kind], chunk_id)
        state, error = ledger.row(
            runtime.sessions, "SELECT state, error FROM pixcrawler.chunks WHERE id = :id", id=chunk_id
        )
        assert (state, (error or "").partition(".")[0]) == ("failed", "payload"), (broken, error)


@pytest.mark.parametrize("kind", JOB_KINDS)
def test_a_job_whose_ended_chunks_have_random_json_ends_with_a_reason_and_can_be_shown(
    runtime: Runtime, kind: str
) -> None:
    rng = random.Random(SEED)
    for turn in range(12):
        ref = other_job(runtime, kind)
        for chunk_id in ledger.ids_of(runtime.sessions, ref):
            ledger.execute(
                runtime.sessions,
                "UPDATE pixcrawler.chunks SET state = :state, lease_until = NULL, dispatched_at = now() WHERE id = :id",
                state=rng.choice(("completed", "completed", "failed")),
                id=chunk_id,
            )
            payload = random_json.mutated(rng, PAYLOADS[kind]) if rng.random() < 0.3 else PAYLOADS[kind]
            write_ledger(runtime.sessions, "payload", chunk_id, payload)
            write_ledger(runtime.sessions, "result", chunk_id, random_json.mutated(rng, RESULTS[kind]))
        swept = sweeper.sweep(runtime, JOB_KINDS.values())
        assert swept.failed == 0, turn
        status = ledger.scalar(runtime.sessions, f"SELECT status FROM {kind}_jobs WHERE id = :id", id=ref.id)
        chunks = ledger.states_of(runtime.sessions, ref)
        assert status in {"completed", "failed"} or "queued" in chunks, (status, chunks)
        for as_json in (False, True):
            job_status.print_table(runtime.sessions, ref, as_json=as_json)
        display = JOB_KINDS[kind].display
        with runtime.sessions.begin() as session:
            job = job_views.job(session, display.view, ref.id)
            assert job is not None
            display.outcome(session, job)
            display.urls(job)
        ledger.execute(runtime.sessions, f"DELETE FROM {kind}_jobs WHERE id = :id", id=ref.id)

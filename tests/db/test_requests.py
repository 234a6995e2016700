"""The functions by which an API requests a job in the transaction that inserts its row."""

import json
from functools import partial
from typing import Any

import factories
import ledger
import psycopg
import pytest
from doubles import actions, log_of, query
from ledger import at_once
from sqlalchemy import text
from structlog.testing import capture_logs

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import crawls, images
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.jobs import submission, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

URLS = ["https://example.org/1.jpg", "https://example.org/2.jpg"]
CC0 = {"urls": URLS, "licenses": ["cc0"]}


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def request(runtime: Runtime, job_id: int, options: object = None) -> bool:
    with runtime.sessions.begin() as session:
        found = session.scalar(
            text("SELECT pixcrawler.request_crawl(:id, CAST(:options AS jsonb))"),
            {"id": job_id, "options": json.dumps(options)},
        )
    assert isinstance(found, bool)
    return found


def requested(runtime: Runtime, options: object = None) -> JobRef:
    """A crawl job that an API has inserted and requested; its message is lost."""
    ref = CRAWL.table.ref(factories.make_job(runtime.sessions))
    assert request(runtime, ref.id, options)
    return ref


def sweep(runtime: Runtime) -> sweeper.Swept:
    """Sweep when messages count as lost."""
    for kind in JOB_KINDS:
        ledger.execute(
            runtime.sessions, f"UPDATE pixcrawler.{kind}_plans SET requested_at = requested_at - interval '1 h'"
        )
    return sweeper.sweep(runtime, JOB_KINDS.values())


def status(runtime: Runtime, ref: JobRef) -> str:
    return ledger.crawl_job(runtime.sessions, ref).status


def recorded(runtime: Runtime, ref: JobRef) -> tuple[dict[str, Any], list[list[str]]]:
    ((options,),) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=ref.id)
    urls = query(runtime, "SELECT urls FROM pixcrawler.crawl_urls WHERE crawl_job_id = :id ORDER BY page", id=ref.id)
    return options, [page for (page,) in urls]


def test_a_requested_crawl_starts_with_its_options_when_no_message_arrives(runtime: Runtime) -> None:
    ref = requested(runtime, CC0)
    assert sweeper.sweep(runtime, JOB_KINDS.values()).idle, "the message gets its time"
    assert sweep(runtime).started == 1
    assert status(runtime, ref) == "running"
    assert recorded(runtime, ref) == ({"licenses": ["cc0"], "chunk_size": 100}, [URLS])
    assert actions(runtime, ref) == ["started"]


def test_what_a_list_says_of_its_images_is_recorded_with_the_urls(runtime: Runtime) -> None:
    cat = {"url": "https://example.org/3.jpg", "caption": "a red cat", "label": "cat", "columns": {"n": [1, None]}}
    ref = requested(runtime, {"urls": [*URLS, cat], "chunk_size": 2})
    sweep(runtime)
    assert query(runtime, "SELECT urls, details FROM pixcrawler.crawl_urls ORDER BY page") == [
        (URLS, None),
        ([cat["url"]], [{"caption": "a red cat", "label": "cat", "columns": {"n": [1, None]}}]),
    ]
    with runtime.sessions() as session:
        rows = [ListRow(url) for url in URLS] + [ListRow(str(cat["url"]), "a red cat", "cat", {"n": [1, None]})]
        assert list(crawls.listed(session, ref.id)) == rows
        (chunk_id,) = session.scalars(text("SELECT id FROM pixcrawler.chunks WHERE payload -> 'page' = '1'"))
        assert crawls.load_for_chunk(session, ref.id, chunk_id, page=1).rows == (rows[2],)
        assert crawls.load_for_chunk(session, ref.id, chunk_id, page=None).rows == ()


def test_any_text_is_recorded_as_it_is(runtime: Runtime) -> None:
    odd = ["a\tb", "a\nb\r\n", "\\N", '"', "\\", '{"a", NULL}', "NULL", "", "\x1f\x7f\u2028\U0001f408", "a\\t,b"]
    captions = [text for text in odd if text]
    urls: list[object] = [*odd, *({"url": text, "caption": text, "columns": {text: [text]}} for text in captions)]
    ref = requested(runtime, {"urls": urls, "chunk_size": 3})
    sweep(runtime)
    with runtime.sessions() as session:
        found = list(crawls.listed(session, ref.id))
    kept = [ListRow(text.strip("\r\n\x1f\u2028")) for text in odd]
    assert found[: len(odd)] == kept
    assert [(row.caption, dict(row.columns)) for row in found[len(odd) :]] == [
        (text, {text: [text]}) for text in captions
    ]


@pytest.mark.parametrize("committed", [True, False])
def test_the_row_and_its_request_are_one_transaction(runtime: Runtime, database_url: str, *, committed: bool) -> None:
    project = factories.make_project(runtime.sessions)
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO crawl_jobs (project_id, name, keywords) VALUES (%s, 'cats', '["cat"]')
            RETURNING pixcrawler.request_crawl(id, '{"urls": ["https://example.org/1.jpg"]}')
            """,
            (project,),
        ).fetchone()
        assert row == (True,)
        if not committed:
            connection.rollback()
    assert sweep(runtime).started == committed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"licences": ["cc0"]}, "options.licences: unknown option, did you mean 'licenses'?"),
        ({"min_width": 1e30}, "options.min_width: expected an integer"),
        ([1, 2], "options: expected an object, got an array"),
        ("cc0", 'options: expected an object, got "cc0"'),
        (7, "options: expected an object, got 7"),
    ],
)
def test_malformed_options_end_their_job_with_a_reason(runtime: Runtime, options: object, reason: str) -> None:
    ref, good = requested(runtime, options), requested(runtime, CC0)
    sweep(runtime)
    assert (status(runtime, ref), status(runtime, good)) == ("failed", "running")
    assert reason in (log_of(runtime, ref)[-1].metadata_ or {})["reason"]
    # Corrected by the API, and retried.
    assert request(runtime, ref.id, CC0)
    submission.retry(runtime, CRAWL, ref.id)
    assert (status(runtime, ref), recorded(runtime, ref)[1]) == ("running", [URLS])


def test_requesting_twice_and_at_once_is_harmless(runtime: Runtime) -> None:
    ref = requested(runtime, CC0)
    assert at_once(*[partial(request, runtime, ref.id, CC0)] * 4) == [True] * 4
    assert request(runtime, ref.id, {}), "without options, those before stay"
    assert request(runtime, ref.id, None)
    sweep(runtime)
    assert recorded(runtime, ref) == ({"licenses": ["cc0"], "chunk_size": 100}, [URLS])
    assert not request(runtime, ref.id, {"licenses": ["cc-by"]}), "it was started"
    assert recorded(runtime, ref)[0]["licenses"] == ["cc0"]


def test_a_request_against_the_start_by_a_message_plans_once(runtime: Runtime) -> None:
    for _ in range(5):
        ref = requested(runtime, CC0)
        start = partial(submission.start, runtime, CRAWL, ref.id, CC0)
        found = at_once(start, start, partial(request, runtime, ref.id, CC0), partial(sweep, runtime))
        assert status(runtime, ref) == "running"
        assert [len(one) for one in found if isinstance(one, list)].count(1) <= 1
        assert actions(runtime, ref) == ["started"]


@pytest.mark.parametrize("options", [None, {}, CC0, {"licenses": ["CC0"], "urls": URLS}], ids=repr)
def test_a_message_that_arrives_later_is_harmless_with_the_same_or_no_options(
    runtime: Runtime, options: object
) -> None:
    ref = requested(runtime, CC0)
    sweep(runtime)
    with capture_logs() as logged:
        assert submission.start(runtime, CRAWL, ref.id, options) == []
    assert logged == []
    assert actions(runtime, ref) == ["started"]


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"urls": URLS}, "licenses"),
        ({**CC0, "licenses": ["cc0", "cc-by"]}, "licenses"),
        ({**CC0, "urls": URLS[:1], "chunk_size": 7}, "chunk_size, urls"),
        ({**CC0, "min_widht": 7}, "options.min_widht: unknown option, did you mean 'min_width'?"),
    ],
    ids=repr,
)
def test_a_message_that_arrives_later_with_other_options_is_named_in_both_logs_once(
    runtime: Runtime, options: object, differing: str
) -> None:
    ref = requested(runtime, CC0)
    sweep(runtime)
    with capture_logs() as logged:
        at_once(*[partial(submission.start, runtime, CRAWL, ref.id, options)] * 4)
    assert [entry["log_level"] for entry in logged] == ["error"]
    assert differing in logged[0]["differing"]
    assert actions(runtime, ref) == ["started", "options_ignored"]
    assert differing in (log_of(runtime, ref)[-1].metadata_ or {})["reason"]
    assert recorded(runtime, ref)[0]["licenses"] == ["cc0"]


def test_options_that_replace_requested_ones_are_named(runtime: Runtime) -> None:
    ref = requested(runtime, CC0)
    submission.start(runtime, CRAWL, ref.id, {"urls": URLS, "licenses": ["cc-by"]})
    assert actions(runtime, ref) == ["options_replaced", "started"]
    assert recorded(runtime, ref)[0]["licenses"] == ["cc-by"]


def test_a_license_filter_that_comes_after_a_start_without_it_is_named(runtime: Runtime) -> None:
    """`PIXCRAWLER_START_PENDING` starts a row whose message is too late."""
    ref = CRAWL.table.ref(factories.make_job(runtime.sessions))
    submission.start(runtime, CRAWL, ref.id, {"urls": URLS})
    submission.start(runtime, CRAWL, ref.id, CC0)
    assert actions(runtime, ref) == ["started", "options_ignored"]


@pytest.fixture(params=["validation", "export"])
def other(runtime: Runtime, request: pytest.FixtureRequest) -> JobRef:
    """A pending job of a kind without options in its messages."""
    crawl = factories.make_job(runtime.sessions, status="completed")
    column = {"validation": "", "export": ", user_id"}[request.param]
    owner = "" if request.param == "validation" else ", (SELECT user_id FROM projects LIMIT 1)"
    ((job_id,),) = query(
        runtime,
        f"INSERT INTO {request.param}_jobs (crawl_job_id, name{column}) VALUES ({crawl}, 'x'{owner}) RETURNING id",
    )
    return JOB_KINDS[request.param].table.ref(job_id)


def test_validations_and_exports_are_requested_likewise(runtime: Runtime, other: JobRef) -> None:
    call = f"SELECT pixcrawler.request_{other.table.name}(:id)"
    for _ in range(2):
        assert query(runtime, call, id=other.id) == [(True,)]
    assert sweep(runtime).started == 1
    job = ledger.other_job(runtime.sessions, other)
    assert (job.status, "has no images" in (job.error_message or "")) == ("failed", True)
    ledger.execute(runtime.sessions, f"UPDATE {other.table.name}_jobs SET status = 'running'")
    assert query(runtime, call, id=other.id) == [(False,)]


@pytest.mark.parametrize("kind", JOB_KINDS)
def test_requesting_a_job_that_does_not_exist_is_an_error(runtime: Runtime, database_url: str, kind: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.ForeignKeyViolation, match=f"there is no {kind} job 424242"),
    ):
        connection.execute(f"SELECT pixcrawler.request_{kind}(424242)".encode())


def test_a_role_needs_no_rights_on_the_tables_of_the_worker(runtime: Runtime, database_url: str) -> None:
    ref = CRAWL.table.ref(factories.make_job(runtime.sessions, valid_images=1))
    with runtime.sessions.begin() as session:
        images.insert_new(session, ref.id, [factories.make_image("of another")])
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE api")
        connection.execute("GRANT SELECT, DELETE ON images TO api")
        connection.execute("GRANT USAGE ON SCHEMA pixcrawler TO api")
        connection.execute("SET ROLE api")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("SELECT pixcrawler.request_crawl(%s)", (ref.id,))
        connection.execute("RESET ROLE")
        connection.execute("GRANT EXECUTE ON FUNCTION pixcrawler.request_crawl TO api")
        connection.execute("SET ROLE api")
        assert connection.execute("SELECT pixcrawler.request_crawl(%s)", (ref.id,)).fetchone() == (True,)
        connection.execute("DELETE FROM images")
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        connection.execute("RESET ROLE")
        assert connection.execute("SELECT valid_images FROM crawl_jobs").fetchone() == (0,)
        connection.rollback()


def test_a_job_that_is_cancelled_before_its_message_keeps_the_options_for_a_retry(runtime: Runtime) -> None:
    ref = CRAWL.table.ref(factories.make_job(runtime.sessions))
    submission.cancel(runtime, CRAWL, ref.id)
    for _ in range(2):
        assert submission.start(runtime, CRAWL, ref.id, CC0) == []
    assert submission.start(runtime, CRAWL, ref.id, {"urls": 5}) == []
    assert submission.retry(runtime, CRAWL, ref.id)
    assert recorded(runtime, ref)[0]["licenses"] == ["cc0"]
    with runtime.sessions.begin() as session:
        assert list(crawls.listed(session, ref.id)) == [ListRow(url) for url in URLS]

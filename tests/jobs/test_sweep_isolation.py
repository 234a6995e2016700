"""One row, one step or one kind that fails stops no other: each step meets rows that its database refuses to change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import ledger
import pytest
from factories import make_job
from sqlalchemy import DateTime, literal_column
from structlog.testing import capture_logs
from toy.kind import TOY_JOBS, make_toy, toy, toy_kind

from pixcrawler_worker import metrics
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs import submission, sweeper
from pixcrawler_worker.jobs.kind import AnyJobKind, Chunks, Conclusion
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.jobs.sweeper import Swept
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

#: Raises for the rows of the chosen jobs, as a value that its column cannot hold does.
POISON = """
CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'this row cannot be written' USING ERRCODE = '22023'; END $$
"""


@contextmanager
def poisoned(sessions: Sessions, table: str, condition: str) -> Iterator[None]:
    """Make every write of the rows of a table that meet a condition an error."""
    ledger.execute(sessions, POISON)
    ledger.execute(
        sessions,
        f"CREATE TRIGGER poison BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION poison()",
    )
    try:
        yield
    finally:
        ledger.execute(sessions, f"DROP TRIGGER poison ON {table}")


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def sweep(runtime: Runtime, kind: AnyJobKind | None = None, setbacks: Setbacks | None = None) -> Swept:
    return sweeper.sweep(runtime, [kind or toy_kind()], setbacks=setbacks)


def errors(step: str) -> float:
    return float(metrics.SWEEP_ERRORS.labels("toy", step)._value.get())  # noqa: SLF001 - its only reader


def started(runtime: Runtime, sessions: Sessions, *, jobs: int = 2, numbers: int = 1) -> list[JobRef]:
    refs = [make_toy(sessions, numbers=numbers) for _ in range(jobs)]
    for ref in refs:
        submission.start(runtime, toy_kind(), ref.id)
    return refs


def running_with_dead_worker(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET state = 'running', attempt = 1, lease_until = now() - interval '1 s'",
    )
    return refs


def ended_by_hand(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(sessions, "UPDATE toy_jobs SET status = 'failed'")
    return refs


def undispatched(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = NULL")
    return refs


def lost(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = now() - interval '1 hour'")
    return refs


def impossible(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET available_at = 'infinity', dispatched_at = NULL")
    return refs


def all_ended(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    refs = started(runtime, sessions)
    ledger.execute(
        sessions, """UPDATE pixcrawler.chunks SET state = 'completed', result = '{"number": 1, "added": 1}'"""
    )
    return refs


def requested(runtime: Runtime, sessions: Sessions) -> list[JobRef]:
    del runtime
    return [make_toy(sessions, numbers=1, requested_at="2020-01-01") for _ in range(2)]


CHUNKS, JOBS = "pixcrawler.chunks", "toy_jobs"


@dataclass(frozen=True)
class Case:
    """A step, two jobs that it has something to do for, the table that it writes, and what shows that it did."""

    step: str
    make: Callable[[Runtime, Sessions], list[JobRef]]
    table: str
    done: str

    def is_done(self, sessions: Sessions, ref: JobRef) -> bool:
        key = "toy_job_id" if self.table == CHUNKS else "id"
        return bool(ledger.scalar(sessions, f"SELECT {self.done} FROM {self.table} WHERE {key} = :id", id=ref.id))

    def of(self, ref: JobRef) -> str:
        return f"OLD.{'toy_job_id' if self.table == CHUNKS else 'id'} = {ref.id}"


@pytest.mark.parametrize(
    "case",
    [
        Case("reap", running_with_dead_worker, CHUNKS, "state = 'queued'"),
        Case("drop", ended_by_hand, CHUNKS, "state = 'cancelled'"),
        Case("dispatch", undispatched, CHUNKS, "dispatched_at IS NOT NULL"),
        Case("redispatch", lost, CHUNKS, "dispatch_count = 2"),
        Case("correct", impossible, CHUNKS, "available_at <= clock_timestamp()"),
        Case("conclude", all_ended, JOBS, "status = 'completed'"),
        Case("start", requested, JOBS, "status = 'running'"),
    ],
    ids=lambda case: case.step,
)
def test_a_row_that_cannot_be_written_is_logged_counted_and_put_off_and_the_next_one_goes_on(
    runtime: Runtime, sessions: Sessions, case: Case
) -> None:
    bad, good = case.make(runtime, sessions)
    clock = Clock()
    setbacks = Setbacks(clock)
    before = errors(case.step)
    with poisoned(sessions, case.table, case.of(bad)), capture_logs() as logs:
        swept = sweep(runtime, setbacks=setbacks)
        assert (case.is_done(sessions, good), case.is_done(sessions, bad)) == (True, False)
        assert (swept.failed, errors(case.step) - before) == (1, 1)
        (line,) = [line for line in logs if line.get("step") == case.step]
        assert (line["log_level"], line["exc_info"]) == ("error", True), "the first time, with its traceback"
        assert "this row cannot be written" in line["reason"]
        assert sweep(runtime, setbacks=setbacks).failed == 0, "it is put off"
    clock.now = 3600
    sweep(runtime, setbacks=setbacks)
    assert case.is_done(sessions, bad), "in the end it goes on like the others"


@pytest.mark.parametrize(
    ("state", "level", "event"),
    [("22012", "error", "step of the sweep failed"), ("55P03", "warning", "step of the sweep put off")],
    ids=["bug", "passing"],
)
def test_a_step_whose_query_fails_stops_no_other_step_and_no_other_kind(
    runtime: Runtime, sessions: Sessions, state: str, level: str, event: str
) -> None:
    refs = lost(runtime, sessions)
    make_toy(sessions, numbers=1)
    ledger.execute(
        sessions,
        POISON.replace("RETURNS trigger", "RETURNS timestamptz")
        .replace("poison", "poisoned_time")
        .replace("22023", state),
    )
    broken = replace(toy_kind(), table=replace(TOY_JOBS, requested_at=literal_column("poisoned_time()", DateTime)))
    before = errors("start")
    with capture_logs() as logs:
        swept = sweeper.sweep(runtime, [broken, toy_kind()])
    assert (swept.redispatched, swept.failed, errors("start") - before) == (2, 1, 1)
    assert [(line["log_level"], line["event"]) for line in logs if line.get("step")] == [(level, event)]
    assert {toy(sessions, ref).status for ref in refs} == {"running"}


def raise_bug(*_: object) -> Chunks:
    raise ZeroDivisionError("division by zero\nin a second line")


def raise_invalid(*_: object) -> Conclusion:
    raise PermanentError("rules.level: expected something else")


@pytest.mark.parametrize(
    ("kind", "make", "reason"),
    [
        (replace(toy_kind(), plan=raise_bug), requested, "the job could not be planned"),
        (replace(toy_kind(), conclude=raise_bug), all_ended, "the job could not be concluded"),
    ],
    ids=["plan", "conclude"],
)
def test_a_job_whose_planning_or_conclusion_goes_on_failing_ends_and_says_why(
    runtime: Runtime,
    sessions: Sessions,
    kind: AnyJobKind,
    make: Callable[[Runtime, Sessions], list[JobRef]],
    reason: str,
) -> None:
    bad, _ = make(runtime, sessions)
    clock = Clock()
    setbacks = Setbacks(clock)
    for attempt in range(1, LIMITS.max_setbacks + 1):
        assert toy(sessions, bad).status in {"pending", "running"}, attempt
        assert sweep(runtime, kind, setbacks).failed == 2
        clock.now += 3600
    job = toy(sessions, bad)
    assert (job.status, job.error_message) == ("failed", f"{reason}: ZeroDivisionError: division by zero")
    assert sweep(runtime, kind, setbacks).failed == 0


def test_a_job_that_became_invalid_under_way_ends_with_the_reason(runtime: Runtime, sessions: Sessions) -> None:
    ref, _ = all_ended(runtime, sessions)
    sweep(runtime, replace(toy_kind(), conclude=raise_invalid))
    job = toy(sessions, ref)
    assert (job.status, job.error_message) == ("failed", "rules.level: expected something else")


def test_rows_that_fail_do_not_keep_others_out_of_the_batches(runtime: Runtime, sessions: Sessions) -> None:
    first = make_toy(sessions, numbers=7, requested_at="2020-01-01")
    ledger.execute(
        sessions,
        "INSERT INTO toy_jobs (project_id, name, numbers, max_sum, requested_at)"
        " SELECT project_id, name, numbers, max_sum, requested_at FROM toy_jobs, generate_series(2, 210)"
        " WHERE id = :id",
        id=first.id,
    )
    last = make_toy(sessions, numbers=1, requested_at="2020-01-01")
    patient = replace(LIMITS, sweep_step=timedelta(minutes=1))
    with poisoned(sessions, JOBS, "OLD.numbers = 7"), capture_logs() as logs:
        swept = sweeper.sweep(runtime, [toy_kind()], limits=patient)
        assert (swept.failed, toy(sessions, last).status) == (210, "running")
    assert sum("exc_info" in line for line in logs) == 5, "a traceback takes longer than a row"


def test_a_step_that_has_no_time_left_leaves_the_rest_to_the_next_sweep(runtime: Runtime, sessions: Sessions) -> None:
    refs = [make_toy(sessions, numbers=1, requested_at="2020-01-01") for _ in range(3)]
    no_time = replace(LIMITS, sweep_step=timedelta(0))
    swept = sweeper.sweep(runtime, [toy_kind()], limits=no_time)
    assert (swept.started, swept.unfinished) == (0, True)
    assert not sweep(runtime).unfinished
    assert {toy(sessions, ref).status for ref in refs} == {"running"}


def test_an_error_while_planning_from_a_message_leaves_the_request_recorded(
    runtime: Runtime, sessions: Sessions
) -> None:
    crawl = JOB_KINDS["crawl"]
    job_id = make_job(sessions)
    with pytest.raises(ZeroDivisionError):
        submission.start(runtime, replace(crawl, plan=raise_bug), job_id, {"min_width": 77})
    recorded = ledger.scalar(sessions, "SELECT options FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=job_id)
    assert recorded["min_width"] == 77

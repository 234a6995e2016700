import re
from pathlib import Path

import pytest
from chunk_lifecycle import TRANSITIONS, Event
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.lifecycle import (
    MAX_CRASHES,
    ChunkState,
    Counters,
    Delta,
    JobStatus,
    after_crash,
    delta,
    job_status,
    progress,
)
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS, backoff

DOCUMENT = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()

states_of_chunks = st.lists(st.sampled_from(ChunkState), max_size=12)


def count(chunks: list[ChunkState]) -> Counters:
    return Counters(
        total=len(chunks),
        active=chunks.count(ChunkState.RUNNING),
        completed=chunks.count(ChunkState.COMPLETED),
        failed=chunks.count(ChunkState.FAILED),
        cancelled=chunks.count(ChunkState.CANCELLED),
    )


def apply(counters: Counters, change: Delta, *, cancelled: int) -> Counters:
    return Counters(
        total=counters.total,
        active=counters.active + change.active,
        completed=counters.completed + change.completed,
        failed=counters.failed + change.failed,
        cancelled=counters.cancelled + cancelled,
    )


# Counters


@pytest.mark.parametrize(
    "values",
    [
        {"total": 1, "active": -1},
        {"total": 1, "completed": -1, "failed": 2},
        {"total": 1, "failed": -1},
        {"total": 1, "cancelled": -1},
        {"total": -1},
        {"total": 1, "active": 2},
        {"total": 3, "active": 1, "completed": 1, "failed": 1, "cancelled": 1},
    ],
)
def test_counters_that_no_transition_reaches_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="impossible counters"):
        Counters(**values)


def test_what_is_in_no_other_state_waits() -> None:
    counters = Counters(total=10, active=4, completed=3, failed=1, cancelled=1)
    assert counters.queued == 1
    assert counters.open == 5


@given(states_of_chunks)
def test_every_set_of_chunks_has_counters(chunks: list[ChunkState]) -> None:
    counters = count(chunks)
    assert counters.queued == chunks.count(ChunkState.QUEUED)
    assert counters.open == sum(state in {ChunkState.QUEUED, ChunkState.RUNNING} for state in chunks)


# Transitions


@given(states_of_chunks, st.lists(st.tuples(st.integers(0, 11), st.sampled_from(sorted(TRANSITIONS)))))
def test_counters_follow_the_chunks_through_any_transitions(
    chunks: list[ChunkState], moves: list[tuple[int, tuple[ChunkState, Event, ChunkState]]]
) -> None:
    counters = count(chunks)
    for at, (before, _, after) in moves:
        if at < len(chunks) and chunks[at] is before:
            chunks[at] = after
            cancelled = (after is ChunkState.CANCELLED) - (before is ChunkState.CANCELLED)
            counters = apply(counters, delta(before, after), cancelled=cancelled)
    assert counters == count(chunks)


@pytest.mark.parametrize(("before", "event", "after"), sorted(TRANSITIONS))
def test_many_chunks_change_the_counters_as_often_as_one(before: ChunkState, event: Event, after: ChunkState) -> None:
    one, many = delta(before, after), delta(before, after, 7)
    assert many == Delta(one.active * 7, one.completed * 7, one.failed * 7)
    assert delta(before, after, 0) == Delta()


def test_a_chunk_that_stays_where_it_is_changes_nothing() -> None:
    assert {delta(state, state) for state in ChunkState} == {Delta()}


def test_completed_work_is_never_touched_again() -> None:
    assert not [transition for transition in TRANSITIONS if transition[0] is ChunkState.COMPLETED]


def test_every_state_is_reached_and_every_event_does_something() -> None:
    assert {after for _, _, after in TRANSITIONS} == set(ChunkState)
    assert {event for _, event, _ in TRANSITIONS} == set(Event)


# Jobs


@pytest.mark.parametrize(
    ("counters", "status"),
    [
        (Counters(total=0), JobStatus.COMPLETED),
        (Counters(total=2, completed=2), JobStatus.COMPLETED),
        (Counters(total=2, completed=1, failed=1), JobStatus.COMPLETED),
        (Counters(total=2, failed=2), JobStatus.FAILED),
        (Counters(total=2, completed=1), JobStatus.RUNNING),
        (Counters(total=2, failed=1, active=1), JobStatus.RUNNING),
        (Counters(total=2), JobStatus.RUNNING),
    ],
)
def test_chunks_decide_what_becomes_of_their_job(counters: Counters, status: JobStatus) -> None:
    assert job_status(counters) is status


@given(states_of_chunks)
def test_a_job_runs_exactly_while_chunks_are_open(chunks: list[ChunkState]) -> None:
    counters = count(chunks)
    assert (job_status(counters) is JobStatus.RUNNING) == bool(counters.open)


@given(states_of_chunks)
def test_progress_is_a_percentage_below_100(chunks: list[ChunkState]) -> None:
    assert 0 <= progress(count(chunks)) <= 99


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total - 1))))
def test_progress_rises_with_every_chunk_that_ends(case: tuple[int, int]) -> None:
    total, ended = case
    steps = [
        progress(Counters(total=total, completed=ended)),
        progress(Counters(total=total, completed=ended, failed=1)),
        progress(Counters(total=total, completed=ended + 1)),
    ]
    assert steps[0] <= steps[1] == steps[2]
    assert progress(Counters(total=total)) == 0
    assert progress(Counters(total=total, completed=total)) == 99


def test_progress_of_a_job_without_chunks_is_0() -> None:
    assert progress(Counters(total=0)) == 0


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_a_crash_is_forgiven_once_while_attempts_are_left(crashes: int, attempt: int, max_attempts: int) -> None:
    forgiven = crashes < MAX_CRASHES and attempt < max_attempts
    state = after_crash(crashes=crashes, attempt=attempt, max_attempts=max_attempts)
    assert state is (ChunkState.QUEUED if forgiven else ChunkState.FAILED)
    assert (ChunkState.RUNNING, Event.REAP, state) in TRANSITIONS


# docs/lifecycle.md


def test_the_diagram_of_chunks_shows_exactly_the_transitions_there_are() -> None:
    diagrams = re.findall(r"```mermaid\n(.*?)```", DOCUMENT, re.DOTALL)
    (chunks,) = [diagram for diagram in diagrams if "queued" in diagram]
    drawn = re.findall(r"^ *(\w+) --> (\w+): (.+)$", chunks, re.MULTILINE)
    assert len(drawn) == len(TRANSITIONS)
    assert {(ChunkState(before), Event(event), ChunkState(after)) for before, after, event in drawn} == TRANSITIONS


def test_the_document_explains_every_status_state_and_event() -> None:
    explained = set(re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE))
    assert {*JobStatus, *ChunkState, *Event} <= explained


def test_the_document_tells_the_numbers_that_hold() -> None:
    delays = ", ".join(str(int(backoff(attempt).total_seconds())) for attempt in range(1, MAX_ATTEMPTS))
    assert f"{delays} seconds" in DOCUMENT
    assert f"{MAX_ATTEMPTS} attempts" in DOCUMENT
    assert f"{MAX_CRASHES} crashes" in DOCUMENT

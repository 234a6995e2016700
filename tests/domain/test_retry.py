from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.retry import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_WITH_DEFERRALS,
    MAX_RETRY_AFTER,
    GiveUp,
    Retry,
    after_transient_error,
    backoff,
)

jitters = st.floats(0, 1, exclude_max=True)
#: What a Retry-After may ask for; longer ones are given up.
deferrals = st.timedeltas(timedelta(0), MAX_RETRY_AFTER)


def decide(
    attempt: int = 1, max_attempts: int = MAX_ATTEMPTS, retry_after: timedelta | None = None, jitter: float = 0.0
) -> Retry | GiveUp:
    return after_transient_error(attempt=attempt, max_attempts=max_attempts, retry_after=retry_after, jitter=jitter)


def test_the_delay_grows_with_every_attempt_and_the_last_one_is_the_end() -> None:
    decisions = [decide(attempt) for attempt in range(1, MAX_ATTEMPTS + 1)]
    seconds = [decision.delay.total_seconds() for decision in decisions if isinstance(decision, Retry)]
    assert seconds == [5, 20, 80, 320]
    assert decisions[-1] == GiveUp()


@given(st.integers(1, 40), st.integers(1, 40))
def test_backoff_never_shrinks_and_is_a_quarter_of_an_hour_at_most(attempt: int, more: int) -> None:
    assert timedelta(seconds=5) <= backoff(attempt) <= backoff(attempt + more) <= timedelta(minutes=15)


@given(st.integers(1, 4), jitters)
def test_jitter_makes_a_backoff_up_to_a_quarter_longer(attempt: int, jitter: float) -> None:
    decision = decide(attempt, jitter=jitter)
    assert decision == Retry(backoff(attempt) * (1 + jitter / 4), MAX_ATTEMPTS)


def test_chunks_that_met_the_same_trouble_do_not_come_back_in_step() -> None:
    assert decide(jitter=0.1) != decide(jitter=0.9)
    minute = timedelta(minutes=1)
    assert decide(retry_after=minute, jitter=0.1) != decide(retry_after=minute, jitter=0.9)


@given(deferrals, jitters)
def test_a_deferral_is_kept_and_at_most_doubled(retry_after: timedelta, jitter: float) -> None:
    decision = decide(retry_after=retry_after, jitter=jitter)
    assert isinstance(decision, Retry)
    shortest = max(retry_after, timedelta(seconds=1))
    assert shortest <= decision.delay <= shortest * 2


def test_a_deferral_costs_no_attempt_but_not_for_ever() -> None:
    attempt, allowed = 0, MAX_ATTEMPTS
    while isinstance(decision := decide(attempt + 1, allowed, retry_after=timedelta(0)), Retry):
        attempt, allowed = attempt + 1, decision.max_attempts
    assert attempt + 1 == MAX_ATTEMPTS_WITH_DEFERRALS


def test_a_retry_after_that_is_too_long_is_given_up_and_says_why() -> None:
    assert isinstance(decide(retry_after=MAX_RETRY_AFTER), Retry)
    decision = decide(retry_after=MAX_RETRY_AFTER + timedelta(seconds=1))
    assert isinstance(decision, GiveUp)
    assert "900 s" in decision.reason


@given(st.integers(1, 40), st.integers(0, 40))
def test_the_last_attempt_is_not_followed_by_another(max_attempts: int, beyond: int) -> None:
    assert decide(max_attempts + beyond, max_attempts) == GiveUp()

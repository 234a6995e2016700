from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.retry import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_WITH_DEFERRALS,
    MAX_RETRY_AFTER,
    GiveUp,
    Retry,
    after_outage,
    after_transient_error,
    backoff,
    counted_attempt,
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


# Outages


def outages(jitter: float = 0.0, max_attempts: int = MAX_ATTEMPTS) -> list[timedelta]:
    """The delays of a chunk that meets nothing but an outage, until it is given up."""
    delays, attempt = [], 1
    while isinstance(decision := after_outage(attempt=attempt, max_attempts=max_attempts, jitter=jitter), Retry):
        delays.append(decision.delay)
        attempt, max_attempts = attempt + 1, decision.max_attempts
    return delays


def test_the_delays_of_an_outage_grow_up_to_a_limit() -> None:
    assert [delay.total_seconds() for delay in outages()[:9]] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_a_chunk_outlasts_an_outage_of_an_hour_and_has_an_end() -> None:
    """Without jitter, which only makes them longer, and with attempts that take no time."""
    assert len(outages()) == MAX_ATTEMPTS_WITH_DEFERRALS - 1
    assert timedelta(hours=1.5) < sum(outages(), timedelta()) < timedelta(hours=2)


@given(jitters)
def test_chunks_that_met_the_same_outage_do_not_come_back_in_step(jitter: float) -> None:
    assert outages(jitter) == [delay * (1 + jitter) for delay in outages()]


def test_an_outage_costs_no_attempt() -> None:
    """After any number of outages, a chunk has as many attempts for other errors as before, and the same delays."""
    attempt, allowed = 1, MAX_ATTEMPTS
    for _ in range(20):
        met = after_outage(attempt=attempt, max_attempts=allowed, jitter=0)
        assert isinstance(met, Retry)
        attempt, allowed = attempt + 1, met.max_attempts
    delays = []
    while isinstance(decision := decide(attempt, allowed), Retry):
        delays.append(decision.delay.total_seconds())
        attempt += 1
    assert delays == [5, 20, 80, 320]


def test_attempts_are_counted_without_deferrals() -> None:
    assert [counted_attempt(attempt=one, max_attempts=MAX_ATTEMPTS) for one in (1, 2, 5)] == [1, 2, 5]
    assert counted_attempt(attempt=23, max_attempts=MAX_ATTEMPTS + 20) == 3
    assert counted_attempt(attempt=1, max_attempts=1) == 1


def test_an_outage_that_is_given_up_says_so() -> None:
    given_up = after_outage(attempt=60, max_attempts=MAX_ATTEMPTS_WITH_DEFERRALS, jitter=0)
    assert given_up == GiveUp("the chunk has waited for that 55 times")

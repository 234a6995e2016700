from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.sources.quota import Quota, utc_now

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A quota of an hour with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START
        self.quota = Quota("museum", window=timedelta(hours=1), now=lambda: self.now)

    def note(self, status: int = 200, *, is_exhausted: bool = False, **headers: object) -> None:
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        self.quota.note(httpx.Response(status, headers=named), is_exhausted=is_exhausted)

    def wait(self) -> timedelta | None:
        try:
            self.quota.require()
        except TransientError as error:
            return error.retry_after
        return None


def test_nothing_is_requested_after_the_last_request_until_there_are_more() -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=1, X_RateLimit_Reset=90)
    assert clock.wait() is None
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=90)
    assert clock.wait() == timedelta(seconds=90)
    clock.now += timedelta(seconds=89)
    assert clock.wait() == timedelta(seconds=1)
    clock.now += timedelta(seconds=1)
    assert clock.wait() is None


def test_a_reset_is_a_time_or_a_number_of_seconds() -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=int(START.timestamp()) + 86_400)
    assert clock.wait() == timedelta(days=1)


def test_too_many_requests_wait_for_the_last_known_reset() -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=3, X_RateLimit_Reset=120)
    clock.now += timedelta(seconds=20)
    with pytest.raises(TransientError, match="museum has no requests left until 2026-05-01 12:02 UTC") as caught:
        clock.note(429)
    assert caught.value.retry_after == timedelta(seconds=100)


def test_an_exhausted_quota_is_one_also_when_there_is_more_at_once() -> None:
    clock = Clock()
    with pytest.raises(TransientError, match="museum has no requests left until 2026-05-01 12:00 UTC") as caught:
        clock.note(403, is_exhausted=True, Retry_After=0)
    assert caught.value.retry_after == timedelta(0)
    assert clock.wait() is None


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_reset_is_compared_with_the_clock_of_the_provider(ahead: timedelta) -> None:
    clock = Clock()
    there = START + ahead
    reset = int(there.timestamp()) + 90
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset, Date=format_datetime(there, usegmt=True))
    assert clock.wait() == timedelta(seconds=90)


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_provider_without_a_clock_has_that_of_the_worker(date: str) -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=int(START.timestamp()) + 90, Date=date)
    assert clock.wait() == timedelta(seconds=90)


def test_a_reset_may_be_in_milliseconds() -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=int(START.timestamp()) * 1000 + 90_000)
    assert clock.wait() == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("remaining", "is_exhausted"),
    [
        ("-1", True),
        ("0.0", True),
        ("00", True),
        ("1", False),
        ("", False),
        ("none", False),
        ("nan", False),
        ("-", False),
    ],
)
def test_nothing_is_left_below_one_request(remaining: str, *, is_exhausted: bool) -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=remaining, X_RateLimit_Reset=90)
    assert clock.wait() == (timedelta(seconds=90) if is_exhausted else None)


@pytest.mark.parametrize("reset", ["", "soon", "-5", "nan", "inf", "1e400", str(int(START.timestamp()) - 5)])
def test_without_a_usable_reset_the_wait_is_the_window(reset: str) -> None:
    clock = Clock()
    with pytest.raises(TransientError) as caught:
        clock.note(429, X_RateLimit_Reset=reset)
    assert caught.value.retry_after == timedelta(hours=1)


@pytest.mark.parametrize("reset", [str(10**11), "9" * 30, "99999999"])
def test_no_wait_is_longer_than_a_month(reset: str) -> None:
    clock = Clock()
    clock.note(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset)
    assert clock.wait() == timedelta(days=31)


def test_a_retry_after_counts_most_and_a_provider_may_say_it_in_its_own_way() -> None:
    clock = Clock()
    with pytest.raises(TransientError) as caught:
        clock.note(403, is_exhausted=True, Retry_After=7, X_RateLimit_Reset=900)
    assert caught.value.retry_after == timedelta(seconds=7)


def test_its_clock_is_the_time_in_utc() -> None:
    assert utc_now().tzinfo is UTC

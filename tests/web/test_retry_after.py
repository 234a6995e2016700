from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.web import retry_after

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def seconds(text: str) -> float | None:
    found = retry_after.parse(text, now=NOW)
    return None if found is None else found.total_seconds()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        ("0.5", 0.5),
        ("1.", 1),
        (".25", 0.25),
        ("1." + "3" * 5000, 1.333333),
        (" 0 ", 0),
        ("0" * 50 + "7", 7),
        (format_datetime(NOW + timedelta(seconds=1000), usegmt=True), 1000),
        (format_datetime(NOW - timedelta(seconds=1000), usegmt=True), 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
    ],
)
def test_seconds_and_dates_are_read(header: str, expected: float) -> None:
    assert seconds(header) == expected


@pytest.mark.parametrize(
    "header", ["9" * 30, "9" * 5000, "9" * 5000 + ".5", str(2**63), "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_what_no_number_of_the_machine_holds_is_capped_at_a_year(header: str) -> None:
    assert seconds(header) == 365 * 86_400


@pytest.mark.parametrize(
    "header",
    ["", "soon", "-5", ".", "1.5.2", "1,5", "1e3", "\u00b2", "\u0663", "99 years", "Mon, 99 Foo 99999 99:99:99"],
)
def test_what_cannot_be_read_is_none(header: str) -> None:
    assert seconds(header) is None


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=1), timedelta(hours=-1)])
def test_a_date_is_compared_with_the_clock_of_its_server(ahead: timedelta) -> None:
    there = NOW + ahead
    headers = {"Retry-After": format_datetime(there + timedelta(seconds=90), usegmt=True)}
    assert retry_after.of(headers | {"Date": format_datetime(there, usegmt=True)}, now=NOW) == timedelta(seconds=90)


@pytest.mark.parametrize("date", [None, "", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_without_a_clock_has_that_of_the_worker(date: str | None) -> None:
    headers = {"Retry-After": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}
    assert retry_after.of(headers if date is None else headers | {"Date": date}, now=NOW) == timedelta(seconds=90)


def test_a_number_of_seconds_needs_no_clock() -> None:
    assert retry_after.of({"Retry-After": "90", "Date": "soon"}) == timedelta(seconds=90)
    assert retry_after.of({"Date": format_datetime(NOW)}) is None


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ .*", fullmatch=True))
def test_no_header_raises(header: str) -> None:
    found = retry_after.parse(header, now=NOW)
    assert found is None or timedelta(0) <= found <= timedelta(days=365)

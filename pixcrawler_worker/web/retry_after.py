"""Reading the header Retry-After, which untrusted hosts write."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: Longer values are capped, so that arithmetic with them stays in range.
_MAX = timedelta(days=365)
#: A number of seconds; servers send fractions although RFC 9110 has none.
_SECONDS = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?")
#: A clock that differs by more is not set.
_MAX_SKEW = timedelta(days=1)
#: Digits that a number of seconds can have below that cap.
_MAX_DIGITS = 9


def of(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta | None:
    """Return how long a response that has just come asks to wait; None when it has no such header that can be read.

    A date is compared with the time at which the response was sent: the clocks of two machines differ.

    Args:
        headers: of the response.
        now: the current time by default.
    """
    return parse(headers.get("Retry-After", ""), now=server_time(headers, now=now))


def server_time(headers: Mapping[str, str], *, now: datetime | None = None) -> datetime:
    """Return the time by the clock of the server of a response that has just come; by this machine's without one."""
    now = now or datetime.now(UTC)
    sent = _date(headers.get("Date", ""))
    return sent if sent is not None and abs(sent - now) <= _MAX_SKEW else now


def parse(text: str, *, now: datetime | None = None) -> timedelta | None:
    """Return the time to wait before the next request; None when the header is empty or invalid.

    Args:
        text: the header: a number of seconds, also with a fraction, or a date (RFC 9110, 10.2.3).
        now: the time that a date is compared with; the current time by default.
    """
    text = text.strip()
    found = _SECONDS.fullmatch(text)
    if found and (found["whole"] or found["fraction"]):
        whole = found["whole"].lstrip("0") or "0"
        if len(whole) > _MAX_DIGITS:
            return _MAX
        return min(timedelta(seconds=float(f"{whole}.{(found['fraction'] or '0')[:_MAX_DIGITS]}")), _MAX)
    until = _date(text)
    return None if until is None else min(max(until - (now or datetime.now(UTC)), timedelta(0)), _MAX)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        # The parser raises all of these for texts that are not dates.
        return None

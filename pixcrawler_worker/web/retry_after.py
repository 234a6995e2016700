"""Reading the header Retry-After, which untrusted hosts write."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: Longer values are capped, so that arithmetic with them stays in range.
_MAX = timedelta(days=365)
#: Digits that a number of seconds can have below that cap.
_MAX_DIGITS = 9


def parse(text: str, *, now: datetime | None = None) -> timedelta | None:
    """Return the time to wait before the next request; None when the header is empty or invalid.

    Args:
        text: the header: a number of seconds or a date (RFC 9110, 10.2.3).
        now: the time that a date is compared with; the current time by default.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        significant = text.lstrip("0") or "0"
        return _MAX if len(significant) > _MAX_DIGITS else min(timedelta(seconds=int(significant)), _MAX)
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        wait = until - (now or datetime.now(UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        # The parser raises all of these for texts that are not dates.
        return None
    return min(max(wait, timedelta(0)), _MAX)

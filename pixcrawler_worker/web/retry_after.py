"""Reading the header Retry-After, which untrusted hosts write."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: Longer values are capped, so that arithmetic with them stays in range.
_MAX = timedelta(days=365)
#: A number of seconds; servers send fractions although RFC 9110 has none.
_SECONDS = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?")
#: Digits that a number of seconds can have below that cap.
_MAX_DIGITS = 9


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
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        wait = until - (now or datetime.now(UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        # The parser raises all of these for texts that are not dates.
        return None
    return min(max(wait, timedelta(0)), _MAX)

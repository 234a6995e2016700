"""Quotas of providers: a source that knows that nothing is left does not ask, and says when there will be something."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.http import Response, retry_after_of, server_time

#: A number of seconds above this is a Unix time.
_FIRST_TIME = 10**9
#: The same in milliseconds, as some write it.
_MILLISECONDS = range(10**12, 10**13)
#: The longest that is waited for: quotas are of a month at most.
_MAX_WAIT = timedelta(days=31)


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


class Quota:
    """What a provider has left for this process, by the headers of its responses.

    Args:
        name: of the source.
        window: how long a quota lasts when the provider does not say.
        remaining: header with the number of requests that are left.
        reset: header with when there are more again: a Unix time, or a number of seconds; None where there is none.
        now: returns the time.
    """

    def __init__(
        self,
        name: str,
        *,
        window: timedelta,
        remaining: str = "X-RateLimit-Remaining",
        reset: str | None = "X-RateLimit-Reset",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._name, self._window, self._remaining, self._reset, self._now = name, window, remaining, reset, now
        self._resets_at: datetime | None = None
        self._closed_until: datetime | None = None

    def require(self) -> None:
        """Do nothing while requests are left.

        Raises:
            TransientError: when none is; with the time until there are more.
        """
        now = self._now()
        if self._closed_until is not None and now < self._closed_until:
            raise self._error(self._closed_until, now)

    def note(self, response: Response, *, is_exhausted: bool = False) -> None:
        """Take a response into account.

        Args:
            response: of the provider.
            is_exhausted: whether it says in a way of its own that the quota is exhausted. 429 always does.

        Raises:
            TransientError: when the response says that the quota is exhausted.
        """
        now = self._now()
        reset = self._reset_of(response, now)
        if reset is not None:
            self._resets_at = reset
        exhausted = is_exhausted or response.status_code == HTTPStatus.TOO_MANY_REQUESTS
        left = _number(response.headers.get(self._remaining, ""))
        if exhausted or (left is not None and left < 1):
            self._closed_until = now + min(self._wait(response, now), _MAX_WAIT)
        if exhausted and self._closed_until is not None:
            # Also when there are more at once: the response is not the one to a search.
            raise self._error(self._closed_until, now)

    def _error(self, until: datetime, now: datetime) -> TransientError:
        return TransientError(
            f"{self._name} has no requests left until {until:%Y-%m-%d %H:%M} UTC", retry_after=until - now
        )

    def _wait(self, response: Response, now: datetime) -> timedelta:
        asked = retry_after_of(response)
        if asked is not None:
            return asked
        # Some send their headers on success only.
        known = self._resets_at - now if self._resets_at is not None else timedelta(0)
        return known if known > timedelta(0) else self._window

    def _reset_of(self, response: Response, now: datetime) -> datetime | None:
        seconds = _number(response.headers.get(self._reset or "", ""))
        if seconds is None or seconds < 0:
            return None
        if int(seconds) in _MILLISECONDS:
            seconds /= 1000
        # The clocks of two machines differ: a time is compared with that of the machine that names it.
        wait = seconds - server_time(response, now=now).timestamp() if seconds > _FIRST_TIME else seconds
        return now + min(timedelta(seconds=min(wait, _MAX_WAIT.total_seconds())), _MAX_WAIT)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None

"""Asking a provider's JSON API: a hiccup is tried again at once; a wish to be left alone is passed on."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.web.fetch import Downloader, Fetched

#: Tries of one request, and the seconds between them: enough for a connection that was cut or a server that restarts.
_TRIES = 3
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
#: How long to leave somebody alone who says that there were too many requests, but not until when.
_UNSAID_REST = timedelta(seconds=60)
#: Trouble on the way to a provider that somebody may have ended by the next try.
_ON_THE_WAY = PASSING | {Reason.TIMEOUT, Reason.UNRESOLVED}
_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503
#: Characters of an answer that is no JSON, quoted in an error.
_QUOTED = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said: its status, its JSON, and how long it asks to be left alone where it says so."""

    status: int
    data: Any
    retry_after: timedelta | None = None


async def ask(
    downloader: Downloader, name: str, base: str, parameters: Mapping[str, str | int] | None = None
) -> Answer:
    """GET `base` with these parameters and return the JSON that comes back, with any status but those named below.

    Args:
        downloader: what goes there.
        name: of the provider, for people; its base URL is the setting `PIXCRAWLER_<NAME>_URL`.
        base: URL without a query.
        parameters: of the query.

    Raises:
        TransientError: when the provider is busy or away; with 429, or 503 and a time, it says how long.
        PermanentError: when what answers is no JSON API: the base URL is wrong, or the provider refuses us.
    """
    url = f"{base}?{urlencode(parameters)}" if parameters else base
    retrying = AsyncRetrying(
        retry=retry_if_exception(_is_hiccup),
        stop=stop_after_attempt(_TRIES),
        wait=wait_exponential_jitter(multiplier=_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS, jitter=_PAUSE_SECONDS),
        reraise=True,
    )
    fetched: Fetched = await retrying(_ask, downloader, name, url)
    try:
        return Answer(fetched.status, json.loads(fetched.body), fetched.retry_after)
    except (ValueError, RecursionError):
        raise PermanentError(
            f"{name} at {base} answered {fetched.status} with something that is no JSON: {_quoted(fetched.body)}; "
            f"is PIXCRAWLER_{name.upper()}_URL right?"
        ) from None


async def _ask(downloader: Downloader, name: str, url: str) -> Fetched:
    try:
        fetched = await downloader.ask(url)
    except RejectedError as error:
        kind = TransientError if error.reason in _ON_THE_WAY else PermanentError
        raise kind(f"{name} could not be asked: {error}") from error
    pause = fetched.retry_after
    if fetched.status == _TOO_MANY_REQUESTS or (fetched.status == _UNAVAILABLE and pause):
        rest = _UNSAID_REST if pause is None else pause
        raise TransientError(
            f"{name} asks to be left alone for {rest.total_seconds():.0f} s (status {fetched.status})",
            retry_after=rest,
        )
    if fetched.status in range(500, 600):
        raise TransientError(f"{name} answered {fetched.status}: {_quoted(fetched.body)}")
    return fetched


def _is_hiccup(error: BaseException) -> bool:
    """Tell whether the trouble may be gone a moment later: nobody wished to be left alone."""
    return isinstance(error, TransientError) and error.retry_after is None


def _quoted(body: bytes) -> str:
    """Return the beginning of an answer for people, in one line."""
    text = " ".join(re.sub(r"[^\x20-\x7e]+", " ", body[: 4 * _QUOTED].decode("utf-8", "replace")).split())
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")

"""Cookies of one chain of redirects: sent as browsers send them, since hosts compare them letter by letter."""

import re
from collections.abc import Iterable

from aiohttp import CookieJar
from yarl import URL

#: How a host deletes a cookie: with the first second that computers count, which aiohttp takes for no time at all.
_FIRST_SECOND = re.compile(r";\s*expires\s*=[^;]*\b0?1[ -]jan[ -](?:19)?70 00:00:00[^;]*", re.IGNORECASE)
_MAX_AGE = re.compile(r";\s*max-age\s*=", re.IGNORECASE)


def note(jar: CookieJar, headers: Iterable[str], url: URL) -> None:
    """Take over what the Set-Cookie headers of a response from `url` set and delete."""
    jar.update_cookies_from_headers(
        [header if _MAX_AGE.search(header) else _FIRST_SECOND.sub("; Max-Age=0", header) for header in headers], url
    )


def header_for(jar: CookieJar, url: URL) -> str:
    """Return the Cookie header of a request for `url`; an empty text when there are no cookies for it.

    Each value is the one that was set. aiohttp would quote those that have more than letters and digits in them.
    """
    as_set = {(cookie.key, cookie.value): cookie.coded_value for cookie in jar}
    found = jar.filter_cookies(url)
    return "; ".join(f"{name}={as_set.get((name, cookie.value), cookie.value)}" for name, cookie in found.items())

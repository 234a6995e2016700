"""What a failed request means: one rejection reason for every way in which aiohttp says it."""

import aiohttp
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.web.addresses import DeniedError

_STATUS_REASONS = {
    401: Reason.FORBIDDEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    410: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
    451: Reason.FORBIDDEN,
}

# The first class that fits decides, so the special ones come before the general ones.
_ERROR_REASONS: tuple[tuple[type[aiohttp.ClientError], Reason], ...] = (
    (aiohttp.ClientConnectorDNSError, Reason.UNRESOLVED),
    (aiohttp.ClientConnectorCertificateError, Reason.TLS_FAILED),
    (aiohttp.ClientSSLError, Reason.TLS_FAILED),
    (aiohttp.ClientConnectorError, Reason.CONNECT_FAILED),
    (aiohttp.ClientHttpProxyError, Reason.CONNECT_FAILED),
    (aiohttp.ClientPayloadError, Reason.TRUNCATED),
    (aiohttp.ClientConnectionError, Reason.RESET),
    (aiohttp.ClientError, Reason.BAD_RESPONSE),
)


def of_status(status: int) -> Reason:
    """Return the reason for a status outside of 200 to 299."""
    return _STATUS_REASONS.get(status, Reason.SERVER_ERROR if status in range(500, 600) else Reason.HTTP_STATUS)


def of_error(error: aiohttp.ClientError) -> Reason:
    """Return the reason for an error of aiohttp."""
    if isinstance(error.__cause__, DeniedError):
        return error.__cause__.reason
    return next(reason for kind, reason in _ERROR_REASONS if isinstance(error, kind))


def was_reset(response: aiohttp.ClientResponse) -> bool:
    """Return whether the connection died, as opposed to a body that ended early: aiohttp has one error for both."""
    protocol = response.connection.protocol if response.connection is not None else None
    return protocol is not None and isinstance(protocol.exception(), aiohttp.ClientOSError)


def without_query(url: URL) -> str:
    """Return a URL for a log or an error: the query may hold a signature."""
    return str(url).partition("?")[0]

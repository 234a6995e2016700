import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.web import failures
from pixcrawler_worker.web.addresses import DeniedError

KEY = ConnectionKey("images.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (199, Reason.HTTP_STATUS),
        (300, Reason.HTTP_STATUS),
        (400, Reason.HTTP_STATUS),
        (401, Reason.FORBIDDEN),
        (403, Reason.FORBIDDEN),
        (404, Reason.NOT_FOUND),
        (410, Reason.NOT_FOUND),
        (429, Reason.RATE_LIMITED),
        (451, Reason.FORBIDDEN),
        (499, Reason.HTTP_STATUS),
        (500, Reason.SERVER_ERROR),
        (599, Reason.SERVER_ERROR),
        (600, Reason.HTTP_STATUS),
    ],
)
def test_a_status_has_a_reason(status: int, reason: Reason) -> None:
    assert failures.of_status(status) is reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError("unknown")), Reason.UNRESOLVED),
        (aiohttp.ClientConnectorCertificateError(KEY, ValueError("expired")), Reason.TLS_FAILED),
        (aiohttp.ClientConnectorSSLError(KEY, OSError("handshake")), Reason.TLS_FAILED),
        (aiohttp.ClientConnectorError(KEY, OSError("refused")), Reason.CONNECT_FAILED),
        (aiohttp.ClientPayloadError("short"), Reason.TRUNCATED),
        (aiohttp.ServerDisconnectedError(), Reason.RESET),
        (aiohttp.ClientOSError("reset"), Reason.RESET),
        (aiohttp.ClientError("anything else"), Reason.BAD_RESPONSE),
    ],
)
def test_the_most_special_class_of_an_error_decides(error: aiohttp.ClientError, reason: Reason) -> None:
    assert failures.of_error(error) is reason


def test_a_denied_address_is_a_reason_of_its_own() -> None:
    error = aiohttp.ClientConnectorDNSError(KEY, OSError("denied"))
    error.__cause__ = DeniedError("10.0.0.1 is not a public address")
    assert failures.of_error(error) is Reason.FORBIDDEN_ADDRESS


def test_a_query_is_left_out_of_logs() -> None:
    assert (
        failures.without_query(URL("https://images.example/a.jpg?signature=hunter2")) == "https://images.example/a.jpg"
    )

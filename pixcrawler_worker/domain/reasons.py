"""Rejection reasons: why a candidate did not become an image, in one word each, so that they can be counted."""

from enum import StrEnum

from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.masking import mask


class Reason(StrEnum):
    """The reasons. Their values are shown to users and stored in the ledger."""

    # Of the URL.
    BAD_URL = "bad_url"
    FORBIDDEN_ADDRESS = "forbidden_address"
    FORBIDDEN_PORT = "forbidden_port"
    INSECURE_REDIRECT = "insecure_redirect"
    # Of the connection.
    UNRESOLVED = "unresolved"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    RESET = "reset"
    TRUNCATED = "truncated"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_RESPONSE = "bad_response"
    HOST_UNAVAILABLE = "host_unavailable"
    # Of the response.
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    HTTP_STATUS = "http_status"
    TOO_MANY_BYTES = "too_many_bytes"
    EMPTY = "empty"
    # Of what the owner of the site wants.
    OPTED_OUT = "opted_out"
    TDM_RESERVED = "tdm_reserved"
    ROBOTS_DISALLOWED = "robots_disallowed"
    ROBOTS_UNREACHABLE = "robots_unreachable"
    # Of the content.
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    PLACEHOLDER = "placeholder"
    FORMAT_NOT_WANTED = "format_not_wanted"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"
    TOO_SMALL = "too_small"
    CORRUPT = "corrupt"
    DECODER_DIED = "decoder_died"
    # Of what the source states.
    INVALID_ENTRY = "invalid_entry"
    LICENSE_NOT_WANTED = "license_not_wanted"
    # Of the images that the job has already.
    DUPLICATE_URL = "duplicate_url"
    DUPLICATE_BYTES = "duplicate_bytes"
    SURPLUS = "surplus"
    # Of the images that other jobs of the project have.
    KNOWN_URL = "known_url"
    KNOWN_BYTES = "known_bytes"
    # Of the worker: a bug that one candidate met; its traceback is in the log.
    INTERNAL_ERROR = "internal_error"

    @property
    def is_retriable(self) -> bool:
        """Whether a candidate that was rejected for it may become an image some other day."""
        return self in _RETRIABLE


#: Reasons that may not occur again when the same URL is requested a moment later.
PASSING = frozenset({Reason.CONNECT_FAILED, Reason.RESET, Reason.SERVER_ERROR, Reason.TRUNCATED})


#: Reasons that say nothing lasting about the candidate.
_RETRIABLE = PASSING | {
    Reason.UNRESOLVED,
    Reason.TIMEOUT,
    Reason.HOST_UNAVAILABLE,
    Reason.RATE_LIMITED,
    Reason.ROBOTS_UNREACHABLE,
    Reason.DECODER_DIED,
    Reason.INTERNAL_ERROR,
}


class RejectedError(WorkerError):
    """One candidate or image is rejected. The others go on; the reason is counted.

    Args:
        reason: the word that is counted.
        detail: one line for a log, without secrets.
        status: of the HTTP response, where that is the reason.
    """

    def __init__(self, reason: Reason, detail: str, *, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = mask(detail)
        self.status = status

"""Why messages are set aside."""

from enum import StrEnum


class Fault(StrEnum):
    """Why a message was set aside."""

    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_JSON = "not_json"
    ENVELOPE = "envelope"
    CONTENT_TYPE = "content_type"
    COMPRESSION = "compression"
    BODY = "body"
    HEADERS = "headers"
    COMMAND = "command"
    UNHANDLED = "unhandled"

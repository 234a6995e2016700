"""Messages between the worker and its decode process.

Requests are images, each preceded by its length and the operation; responses are preceded by their length: JSON, a
thumbnail, or an image preceded by a line of JSON. JSON, because a process that was taken over must not take over the
worker by its responses, as it could with pickles.
"""

import json
import struct
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.conversion import Conversion, Converted

#: Before every image: the number of bytes that follow, the operation, and its parameter. When the descriptor of an open
#: file comes with it, the image is the content of that file, and the number is the maximum of its bytes.
REQUEST = struct.Struct(">QBH")
#: Before every response: the number of bytes that follow.
LENGTH = struct.Struct(">Q")


class Operation(IntEnum):
    """What is done with an image."""

    FACTS = 0
    THUMBNAIL = 1  # the parameter is its longer side
    METRICS = 2  # with the facts; the parameter is 1 to use a strict decoder, too
    CONVERT = 3  # the conversion is a line before the image


def frame(message: bytes) -> bytes:
    """Return the message with its length before it."""
    return LENGTH.pack(len(message)) + message


def unframe(received: bytes | bytearray) -> bytes | None:
    """Return the message at the beginning of `received`; None while some of it is missing."""
    if len(received) < LENGTH.size:
        return None
    end = LENGTH.size + LENGTH.unpack_from(received)[0]
    return bytes(received[LENGTH.size : end]) if len(received) >= end else None


def join_conversion(conversion: Conversion, body: bytes) -> bytes:
    """Return an image with its conversion before it."""
    return json.dumps(asdict(conversion)).encode() + b"\n" + body


def split_conversion(request: bytes) -> tuple[Conversion, bytes]:
    """Return the conversion and the image of a request."""
    line, _, body = request.partition(b"\n")
    return Conversion(**json.loads(line)), body


def facts_response(facts: ImageFacts, metrics: Metrics | None = None) -> bytes:
    """Return the response to an image that was inspected or measured."""
    fields: dict[str, Any] = {name: getattr(facts, name) for name in ImageFacts.__slots__}
    fields["sha256"] = facts.sha256.hex()
    if metrics is not None:
        fields["metrics"] = {name: getattr(metrics, name) for name in Metrics.__slots__}
    return json.dumps(fields).encode()


def conversion_response(converted: Converted | None) -> bytes:
    """Return the response to an image that was converted; it is empty when there was nothing to change."""
    if converted is None:
        return b""
    fields = {"format": converted.format, "width": converted.width, "height": converted.height}
    return json.dumps(fields).encode() + b"\n" + converted.body


def rejection_response(rejection: RejectedError) -> bytes:
    """Return the response to an image that was rejected."""
    return json.dumps({"rejected": rejection.reason, "detail": rejection.detail}).encode()


def read_facts(response: bytes) -> ImageFacts:
    """Return the facts in a response.

    Raises:
        RejectedError: the image was rejected.
    """
    fields = _fields(response)
    return ImageFacts(**fields | {"sha256": bytes.fromhex(fields["sha256"])})


def read_metrics(response: bytes) -> tuple[ImageFacts, Metrics]:
    """Return the facts and the metrics in a response. Raises as `read_facts`."""
    fields = _fields(response)
    metrics = Metrics(**fields.pop("metrics"))
    return ImageFacts(**fields | {"sha256": bytes.fromhex(fields["sha256"])}), metrics


def read_thumbnail(response: bytes) -> bytes:
    """Return the JPEG in a response.

    Raises:
        RejectedError: the image was rejected.
    """
    if response.startswith(b"{"):
        _fields(response)
    return response


def read_converted(response: bytes) -> Converted | None:
    """Return the converted image in a response; None when there was nothing to change.

    Raises:
        RejectedError: the image was rejected.
    """
    if not response:
        return None
    line, _, body = response.partition(b"\n")
    return Converted(body=body, **_fields(line))


def _fields(response: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(response)
    if "rejected" in fields:
        raise RejectedError(Reason(fields["rejected"]), fields["detail"])
    return fields

"""What the worker and its guarded process say to each other.

One way go pictures, each behind its length and what is wanted of it; the other way answers, each behind its length:
JSON, a thumbnail, or a picture behind a line of JSON. JSON, because whoever takes over the process must not gain the
worker by its answers, as a pickle would let them.
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

#: In front of every picture: how many bytes follow, what is wanted of them, and a number that goes with that. With a
#: descriptor of an open file beside it, the picture is what that file holds, and the number of bytes the most it may
#: be.
REQUEST = struct.Struct(">QBH")
#: In front of every answer: how many bytes follow.
LENGTH = struct.Struct(">Q")


class Wish(IntEnum):
    """What is wanted of a picture."""

    FACTS = 0
    THUMBNAIL = 1  # with its longer side
    METRICS = 2  # beside the facts; with 1 for a strict decoder, too
    CONVERT = 3  # as a line in front of it says


def framed(message: bytes) -> bytes:
    """`message` behind its length."""
    return LENGTH.pack(len(message)) + message


def unframed(received: bytes | bytearray) -> bytes | None:
    """The message that `received` begins with, or None while some of it is missing."""
    if len(received) < LENGTH.size:
        return None
    end = LENGTH.size + LENGTH.unpack_from(received)[0]
    return bytes(received[LENGTH.size : end]) if len(received) >= end else None


def to_convert(conversion: Conversion, body: bytes) -> bytes:
    """A picture behind what is to become of it."""
    return json.dumps(asdict(conversion)).encode() + b"\n" + body


def asked_to_convert(request: bytes) -> tuple[Conversion, bytes]:
    """What is to become of a picture, and the picture."""
    line, _, body = request.partition(b"\n")
    return Conversion(**json.loads(line)), body


def accepted(facts: ImageFacts, metrics: Metrics | None = None) -> bytes:
    """The answer to a good picture."""
    fields: dict[str, Any] = {name: getattr(facts, name) for name in ImageFacts.__slots__}
    fields["sha256"] = facts.sha256.hex()
    if metrics is not None:
        fields["metrics"] = {name: getattr(metrics, name) for name in Metrics.__slots__}
    return json.dumps(fields).encode()


def as_converted(picture: Converted | None) -> bytes:
    """The answer to a picture that was changed, and an empty one when there was nothing to change."""
    if picture is None:
        return b""
    fields = {"format": picture.format, "width": picture.width, "height": picture.height}
    return json.dumps(fields).encode() + b"\n" + picture.body


def refused(refusal: RejectedError) -> bytes:
    """The answer to any other."""
    return json.dumps({"refused": refusal.reason, "detail": refusal.detail}).encode()


def facts(answer: bytes) -> ImageFacts:
    """What an answer says.

    Raises:
        RejectedError: the picture was refused.
    """
    fields = _unless_refused(answer)
    return ImageFacts(**fields | {"sha256": bytes.fromhex(fields["sha256"])})


def measured(answer: bytes) -> tuple[ImageFacts, Metrics]:
    """What an answer says, and what was measured. Raises as `facts`."""
    fields = _unless_refused(answer)
    metrics = Metrics(**fields.pop("metrics"))
    return ImageFacts(**fields | {"sha256": bytes.fromhex(fields["sha256"])}), metrics


def thumbnail(answer: bytes) -> bytes:
    """The JPEG that an answer is.

    Raises:
        RejectedError: the picture was refused.
    """
    if answer.startswith(b"{"):
        _unless_refused(answer)
    return answer


def converted(answer: bytes) -> Converted | None:
    """What a picture became; None when there was nothing to change.

    Raises:
        RejectedError: the picture was refused.
    """
    if not answer:
        return None
    line, _, body = answer.partition(b"\n")
    return Converted(body=body, **_unless_refused(line))


def _unless_refused(answer: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(answer)
    if "refused" in fields:
        raise RejectedError(Reason(fields["refused"]), fields["detail"])
    return fields

"""Checks of a message before kombu and Celery read it: whatever those raise on ends the whole worker.

A message is a JSON object (the envelope) with a body, which is JSON again:

    {"body": "W1s0Ml0sIHt9LCB7fV0=", "content-type": "application/json", "headers": {"task": ..., "id": ...},
     "properties": {"delivery_tag": ..., "body_encoding": "base64", "delivery_info": {"exchange": "", ...}}}

Size and nesting are bounded before anything is deserialized. The types are those that Celery relies on without looking:
of protocol 1, where the body names the task, and of protocol 2, where the headers do.
"""

import base64
import bz2
import codecs
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC
from itertools import islice
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils import json

from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.domain.messages import hidden_text
from pixcrawler_worker.masking import mask_value

#: Bytes of a message, and of its body when decoded. A list of 200,000 URLs fits.
MAX_BYTES = 32 * 1024 * 1024
#: Lists and objects inside of each other. Python's parser gives up at 1,000, and so does what copies the arguments.
MAX_DEPTH = 100
#: Lists and objects in one message: an empty one takes 2 bytes of JSON, and 64 of memory.
MAX_CONTAINERS = 100_000
#: Values in one message, which take up to 100 bytes of memory each, and of JSON 2.
MAX_VALUES = 500_000
#: Bytes of a text with characters beyond 16 bits: Python keeps 4 bytes for each character of such a text.
_MAX_WIDE_BYTES = 8 * 1024 * 1024
_WIDE = re.compile(rb"[\xf0-\xf4]")
_WIDE_ESCAPES = re.compile(rb"\\u[dD][89abAB]")
#: Characters of an id, of the name of a task, of a queue.
_MAX_NAME = 1000
#: Of the counters in headers; Celery adds to them.
_MAX_COUNT = 2**53

#: Those that kombu has for Redis.
_EXCHANGE_TYPES = frozenset({"direct", "topic", "fanout"})
#: By which a command may have a worker grow.
_MAX_PROCESSES = 1000

#: Strings, which may hold brackets, and brackets. Possessive, and the end of the text ends a string: never quadratic.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
#: The same with the commas between values.
_SEPARATORS = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|,', re.DOTALL)
#: Names of compression methods, as kombu has them.
_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), lambda: lzma.LZMADecompressor(memlimit=2 * MAX_BYTES)),
}
#: Keys of a command of the control channel, which become keyword arguments.
_COMMAND_KEYS = {"method", "arguments", "destination", "pattern", "matcher", "ticket", "reply_to"}


class UnreadableError(Exception):
    """A message cannot be read.

    Args:
        reason: the kind of trouble.
        detail: what is wrong, in a few words, without values of the message.
    """

    def __init__(self, reason: Fault, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read_task(raw: bytes) -> dict[str, Any]:
    """Return the envelope of a message that asks for a task.

    Raises:
        UnreadableError: when Celery could not handle it.
    """
    envelope = read_envelope(raw)
    headers = envelope["headers"]
    body = _read_body(envelope)
    if isinstance(body, list):
        if "task" not in headers:
            raise UnreadableError(Fault.HEADERS, "there is no header `task`")
        _check_arguments(body)
        _check_fields(headers, Fault.HEADERS)
    elif isinstance(body, dict):
        # Protocol 1, or a mixture: Celery takes the fields from the body, and those in headers take precedence.
        args, kwargs = body.get("args", []), body.get("kwargs", {})
        _check_arguments([args, kwargs, {key: body.get(key) for key in ("callbacks", "errbacks", "chord")}])
        if "task" in headers and "args" not in body:
            raise UnreadableError(Fault.BODY, "the body has no arguments")
        _check_fields({**body, **headers}, Fault.BODY)
    else:
        raise UnreadableError(Fault.BODY, "the body is neither a list nor an object")
    return envelope


def read_broadcast(raw: bytes, *, is_command: bool) -> dict[str, Any]:
    """Return the envelope of a message that was published to all: a command of the control channel, or an event.

    Raises:
        UnreadableError: when kombu could not handle it.
    """
    envelope = read_envelope(raw)
    body = _read_body(envelope)
    if not is_command:
        return envelope
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        raise UnreadableError(Fault.COMMAND, "the body names no command")
    checks: Mapping[str, bool] = {
        "arguments": isinstance(body.get("arguments"), dict | None),
        "destination": isinstance(body.get("destination"), list | str | None),
        "pattern": isinstance(body.get("pattern"), str | None),
        "matcher": isinstance(body.get("matcher"), str | None),
        "ticket": isinstance(body.get("ticket"), str | None),
        "reply_to": body.get("reply_to") is None or _is_reply_to(body["reply_to"]),
        "clock": _is_count(envelope["headers"].get("clock")),
    }
    if invalid := [name for name, is_valid in checks.items() if not is_valid]:
        raise UnreadableError(Fault.COMMAND, f"`{invalid[0]}` is invalid")
    if body.keys() - _COMMAND_KEYS:
        raise UnreadableError(Fault.COMMAND, "the command has an unknown key")
    for name, value in (body.get("arguments") or {}).items():
        if name in _COMMAND_ARGUMENTS and not _COMMAND_ARGUMENTS[name](value):
            raise UnreadableError(Fault.COMMAND, f"`arguments.{name}` is invalid")
    return envelope


def without_arguments(raw: bytes, envelope: dict[str, Any]) -> bytes:
    """Return a message that holds events, with no more of the arguments of a task than ids, and without secrets.

    Args:
        raw: the message.
        envelope: of the message, as `read_broadcast` returns it.

    Raises:
        UnreadableError: as `read_broadcast`.
    """
    body = _read_body(envelope)
    events = body if isinstance(body, list) else [body]
    masked = [masked_event(one) if isinstance(one, dict) else one for one in events]
    if masked == events:
        return raw
    envelope["body"] = json.dumps(masked if isinstance(body, list) else masked[0])
    envelope["content-encoding"] = "utf-8"
    envelope["properties"].pop("body_encoding", None)
    envelope["headers"].pop("compression", None)
    return json.dumps(envelope).encode()


def masked_event(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an event without secrets, and of the arguments of a task the ids.

    Any program sends events, of the messages that it sends itself.
    """
    masked = {name: mask_value(value) if isinstance(value, str) else value for name, value in fields.items()}
    for name in ("args", "kwargs"):
        if masked.get(name) is not None:
            masked[name] = hidden_text(str(masked[name]))
    return masked


def read_reply(raw: bytes) -> dict[str, Any]:
    """Return the envelope of a worker's reply to a command.

    Raises:
        UnreadableError: when kombu could not handle it.
    """
    envelope = read_envelope(raw)
    _read_body(envelope)
    if not _is_count(envelope["headers"].get("clock")):
        raise UnreadableError(Fault.HEADERS, "`clock` is invalid")
    return envelope


def read_envelope(raw: bytes) -> dict[str, Any]:
    """Return the envelope of a message, with `headers` that are an object; the body is not looked at.

    Raises:
        UnreadableError: when kombu could not handle it.
    """
    envelope = parse(raw)
    if not isinstance(envelope, dict):
        raise UnreadableError(Fault.ENVELOPE, "the message is not an object")
    properties = envelope.get("properties")
    if not isinstance(properties, dict):
        raise UnreadableError(Fault.ENVELOPE, "`properties` is not an object")
    delivery_info = properties.get("delivery_info")
    checks: Mapping[str, bool] = {
        "delivery_tag": _is_tag(properties.get("delivery_tag")),
        "delivery_info": isinstance(delivery_info, dict)
        and _is_name(delivery_info.get("exchange"))
        and _is_name(delivery_info.get("routing_key")),
        "priority": _is_priority(properties.get("priority")),
        "correlation_id": _is_name_or_none(properties.get("correlation_id")),
        "reply_to": _is_name_or_none(properties.get("reply_to")),
    }
    if invalid := [name for name, is_valid in checks.items() if not is_valid]:
        raise UnreadableError(Fault.ENVELOPE, f"`properties.{invalid[0]}` is missing or invalid")
    headers = envelope.get("headers")
    if not isinstance(headers, dict | None):
        raise UnreadableError(Fault.HEADERS, "`headers` is not an object")
    envelope["headers"] = headers or {}
    return envelope


def parse(raw: bytes) -> Any:
    """Return a JSON value, whose size and nesting are bounded.

    Raises:
        UnreadableError: when it is none, or too large.
    """
    if len(raw) > MAX_BYTES:
        raise UnreadableError(Fault.TOO_LARGE, f"it has {len(raw)} bytes, more than {MAX_BYTES}")
    if len(raw) > _MAX_WIDE_BYTES and (_WIDE.search(raw) or (b"\\u" in raw and _WIDE_ESCAPES.search(raw))):
        raise UnreadableError(
            Fault.TOO_LARGE, f"it has more than {_MAX_WIDE_BYTES} bytes, of wide characters among others"
        )
    _check_nesting(raw)
    _check_count(raw)
    try:
        return json.loads(raw.decode())
    except Exception as error:  # the decoders of kombu for dates and numbers raise whatever the library below raises
        raise UnreadableError(Fault.NOT_JSON, f"it cannot be parsed ({type(error).__name__})") from error


def _check_nesting(text: bytes) -> None:
    """Raise if lists and objects are nested too deeply, or are too many, in one pass over the text."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    depth = containers = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start() : token.start() + 1]
        if first in {b"[", b"{"}:
            depth += 1
            containers += 1
            if depth > MAX_DEPTH:
                raise UnreadableError(Fault.TOO_DEEP, f"it is nested deeper than {MAX_DEPTH}")
            if containers > MAX_CONTAINERS:
                raise UnreadableError(Fault.TOO_LARGE, f"it has more than {MAX_CONTAINERS} lists and objects")
        elif first in {b"]", b"}"}:
            depth -= 1


def _check_count(text: bytes) -> None:
    """Raise if there are too many values: small ones take many times as much memory as they take bytes of JSON."""
    # Fast, unless there are very many commas, some of which may be within strings.
    if text.count(b",") < MAX_VALUES:
        return
    commas = (one for one in _SEPARATORS.finditer(text) if one.end() - one.start() == 1)
    if next(islice(commas, MAX_VALUES - 1, None), None):
        raise UnreadableError(Fault.TOO_LARGE, f"it has more than {MAX_VALUES} values")


def _read_body(envelope: Mapping[str, Any]) -> Any:
    """Return the body, decoded as kombu decodes it, but within bounds."""
    content_type, content_encoding = envelope.get("content-type"), envelope.get("content-encoding")
    if content_type != "application/json":
        raise UnreadableError(Fault.CONTENT_TYPE, "the content type is not application/json")
    if not _is_encoding(content_encoding):
        raise UnreadableError(Fault.CONTENT_TYPE, "the content encoding is unknown")
    body, encoding = envelope.get("body"), envelope["properties"].get("body_encoding")
    if not isinstance(body, str):
        raise UnreadableError(Fault.BODY, "the body is not a string")
    # As kombu compares them: the one in any case, the other exactly.
    if not isinstance(encoding, str | None) or (encoding and encoding.lower() != "utf-8" and encoding != "base64"):
        raise UnreadableError(Fault.BODY, "the encoding of the body is unknown")
    try:
        content = base64.b64decode(body.encode()) if encoding == "base64" else body.encode()
    except ValueError as error:
        raise UnreadableError(Fault.BODY, "the body is not in its encoding") from error
    if compression := envelope["headers"].get("compression"):
        content = _decompress(content, compression)
    try:
        return parse(content)
    except UnreadableError as error:
        reason = Fault.BODY if error.reason is Fault.NOT_JSON else error.reason
        raise UnreadableError(reason, f"the body: {error.detail}") from error


def _decompress(content: bytes, method: object) -> bytes:
    if not isinstance(method, str) or method not in _DECOMPRESSORS:
        raise UnreadableError(Fault.COMPRESSION, "the compression is unknown")
    decompressor = _DECOMPRESSORS[method]()
    try:
        plain: bytes = decompressor.decompress(content, MAX_BYTES + 1)
    except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UnreadableError(Fault.COMPRESSION, "the body cannot be decompressed") from error
    if len(plain) > MAX_BYTES:
        raise UnreadableError(Fault.TOO_LARGE, f"the body: it has more than {MAX_BYTES} bytes when decompressed")
    if not decompressor.eof or decompressor.unused_data:
        raise UnreadableError(Fault.COMPRESSION, "the body cannot be decompressed")
    return plain


def _check_arguments(body: list[Any]) -> None:
    if len(body) != len(("args", "kwargs", "embed")):
        raise UnreadableError(Fault.BODY, "the body does not have three parts")
    args, kwargs, embed = body
    if not isinstance(args, list):
        raise UnreadableError(Fault.BODY, "the arguments are not a list")
    if not isinstance(kwargs, dict):
        raise UnreadableError(Fault.BODY, "the keyword arguments are not an object")
    if not isinstance(embed, dict | None):
        raise UnreadableError(Fault.BODY, "the third part of the body is not an object")
    for name in ("callbacks", "errbacks", "chain", "chord"):
        if not _FIELDS[name]((embed or {}).get(name)):
            raise UnreadableError(Fault.BODY, f"`{name}` is invalid")


def _check_fields(fields: Mapping[str, Any], reason: Fault) -> None:
    for name in ("task", "id"):
        if not _is_identifier(fields.get(name)):
            raise UnreadableError(reason, f"`{name}` is missing or invalid")
    for name, is_valid in _FIELDS.items():
        if not is_valid(fields.get(name)):
            raise UnreadableError(reason, f"`{name}` is invalid")


def _is_tag(value: object) -> bool:
    return _is_identifier(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_identifier(value: object) -> bool:
    return _is_name(value) and value != ""


def _is_name(value: object) -> bool:
    """Return if it is a text of bounded length that Redis and PostgreSQL can store."""
    if not isinstance(value, str) or len(value) > _MAX_NAME or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_name_or_none(value: object) -> bool:
    return value is None or _is_name(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str | None)


def _is_count(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _is_process_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_PROCESSES)


def _is_priority(value: object) -> bool:
    try:
        int(value)  # type: ignore[call-overload]  # this is the question
    except (TypeError, ValueError):
        return value is None
    except OverflowError:
        return False
    return True


def _is_encoding(value: object) -> bool:
    if value is None or value == "":
        return True
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        return False
    if value.lower() in {"binary", "ascii-8bit"}:
        return True
    try:
        codecs.lookup(value)
    except (LookupError, ValueError):
        return False
    return True


def _is_time(value: object) -> bool:
    """Return if it is a time in ISO 8601 that Celery can convert to every time zone."""
    if value is None:
        return True
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        return False
    try:
        parsed = maybe_iso8601(value)
        return parsed is not None and 1 < maybe_make_aware(parsed, UTC).astimezone(UTC).year < 9999  # noqa: PLR2004 - a day before and after fits into `datetime`
    except (AttributeError, TypeError, ValueError, OverflowError):
        return False


def _is_limits(value: object) -> bool:
    """Return if it is a hard and a soft time limit in seconds."""
    if value is None:
        return True
    return isinstance(value, list) and len(value) == len(("hard", "soft")) and all(map(_is_limit, value))


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _is_signatures(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_signature, value)))


def _is_signature(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def _is_names(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_name, value)))


def _is_reply_to(value: object) -> bool:
    return isinstance(value, dict) and _is_name(value.get("exchange")) and _is_name(value.get("routing_key"))


#: Arguments of commands that Celery uses later, in its event loop, where an error ends the worker; and the processes by
#: which it grows and shrinks.
_COMMAND_ARGUMENTS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("queue", "exchange", "routing_key"), _is_name_or_none),
    "exchange_type": lambda value: value is None or (isinstance(value, str) and value in _EXCHANGE_TYPES),
    **dict.fromkeys(("n", "min", "max"), _is_process_count),
}
#: Fields of headers, and of a body of protocol 1, that Celery uses without looking at their type.
_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "argsrepr": _is_text,
    "callbacks": _is_signatures,
    "chain": _is_signatures,
    "chord": lambda value: value is None or _is_signature(value),
    "clock": _is_count,
    "errbacks": _is_signatures,
    "eta": _is_time,
    "expires": _is_time,
    "group": _is_name_or_none,
    "group_index": _is_count,
    "groups": lambda value: isinstance(value, list | None),
    "ignore_result": lambda value: isinstance(value, bool | None),
    "kwargsrepr": _is_text,
    "lang": _is_name_or_none,
    "meth": _is_name_or_none,
    "origin": _is_name_or_none,
    "parent_id": _is_name_or_none,
    "replaced_task_nesting": _is_count,
    "retries": _is_count,
    "root_id": _is_name_or_none,
    "shadow": _is_name_or_none,
    "stamped_headers": _is_names,
    "stamps": lambda value: isinstance(value, dict | None),
    "taskset": _is_name_or_none,
    "timelimit": _is_limits,
}

"""Content-Encoding: what a host says about its body, and the body without it.

Identity is requested, and an image is compressed already. Yet hosts send gzip all the same, and name encodings that are
none (`UTF-8`, `none`, `binary`, `aws-chunked`) for plain bytes.
"""

import zlib

from multidict import MultiMapping

from pixcrawler_worker.domain.reasons import Reason, RejectedError

_GZIP_MAGIC = b"\x1f\x8b"
#: Encodings that are decoded: gzip, and zlib's format, which is what `deflate` means (RFC 9110, 8.4.1).
_GZIP, _DEFLATE = frozenset({"gzip", "x-gzip"}), "deflate"
#: Encodings that exist, and cannot be decoded here.
_UNSUPPORTED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
#: A body may become so many times larger, or so many bytes: what is more than both is a bomb.
_MAX_RATIO, _ALWAYS_ALLOWED = 100, 1 << 20
#: Members that a gzip may have, and one more for so many bytes: some servers compress each 64 kB for themselves.
_MAX_MEMBERS, _BYTES_PER_MEMBER = 16, 1024
#: Bytes that are decompressed at a time: few, since each member copies what is behind it in its block.
_BLOCK = 1 << 12


def check(headers: MultiMapping[str], url: str) -> None:
    """Return when the body of a response can be read.

    Raises:
        RejectedError: when it is encoded in a way that cannot be decoded.
    """
    named = _named(headers)
    if len(named) > 1 or not _UNSUPPORTED.isdisjoint(named):
        raise RejectedError(Reason.BAD_RESPONSE, f"{url} sends a body encoded with {', '.join(named)[:60]}")


def decode(body: bytes, headers: MultiMapping[str], url: str, *, max_bytes: int, cut: bool = False) -> bytes:
    """Return a body without its encoding; the body itself when it has none.

    Args:
        body: as it arrived.
        headers: of the response, for which `check` returned.
        url: for errors.
        max_bytes: cap of the result.
        cut: of a longer body the first `max_bytes` are enough, and no more of it may have been read.

    Raises:
        RejectedError: when it becomes too large, or ends early.
    """
    named = _named(headers)
    limit = min(max_bytes, max(_ALWAYS_ALLOWED, len(body) * _MAX_RATIO))
    if not _GZIP.isdisjoint(named) and body.startswith(_GZIP_MAGIC):
        window = zlib.MAX_WBITS | 16
    elif _DEFLATE in named and _is_zlib(body):
        window = zlib.MAX_WBITS
    elif _DEFLATE in named:
        return _raw_inflated(body, limit) or body
    else:
        return body
    what = f"{url} sends {named[0]}"
    try:
        decoded = _decompressed(body, window, limit, what, may_end_early=cut and len(body) >= max_bytes)
    except zlib.error as error:
        raise RejectedError(Reason.BAD_RESPONSE, f"{url} sends a body that is not the {named[0]} it claims") from error
    if len(decoded) > limit and not cut:
        raise RejectedError(Reason.TOO_MANY_BYTES, f"{what} of more than {limit} bytes")
    return decoded[:limit]


def _decompressed(body: bytes, window: int, limit: int, what: str, *, may_end_early: bool) -> bytes:
    """Return what a body becomes, of more than `limit` bytes one more than that.

    Raises:
        zlib.error: it is damaged.
        RejectedError: it ends early, or has too many members.
    """
    decoded = bytearray()
    position = 0
    # A body of gzip may have several members (RFC 1952, 2.2); what follows them is none of it.
    for _ in range(_MAX_MEMBERS + len(body) // _BYTES_PER_MEMBER):
        decompressor = zlib.decompressobj(window)
        while not decompressor.eof:
            block = body[position : position + _BLOCK]
            if not block and not may_end_early:
                raise RejectedError(Reason.TRUNCATED, f"{what} that ends early")
            decoded += decompressor.decompress(block, limit + 1 - len(decoded))
            if not block or len(decoded) > limit:
                return bytes(decoded)
            position += len(block) - len(decompressor.unused_data)
        if not body.startswith(_GZIP_MAGIC, position):
            return bytes(decoded)
    raise RejectedError(Reason.BAD_RESPONSE, f"{what} of too many members")


def _raw_inflated(body: bytes, limit: int) -> bytes | None:
    """Return a body without the bare deflate that some servers send; None when it is something else.

    An image that is not encoded at all is no stream of deflate that ends where the body does.
    """
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        decoded = decompressor.decompress(body, limit + 1)
    except zlib.error:
        return None
    return decoded if decompressor.eof and not decompressor.unused_data and len(decoded) <= limit else None


def _named(headers: MultiMapping[str]) -> list[str]:
    """Return the known encodings that a response names, in their order; names that are none of an encoding are not."""
    value = ",".join(headers.getall("Content-Encoding", []))
    known = _GZIP | _UNSUPPORTED | {_DEFLATE}
    return [name for part in value.split(",") if (name := part.strip().lower()) in known]


def _is_zlib(body: bytes) -> bool:
    """Return whether a body begins as zlib's format does (RFC 1950, 2.2)."""
    return len(body) > 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0  # noqa: PLR2004 - of RFC 1950

"""From bytes to facts: header, limits, pixels, hashes, the cheapest first."""

import hashlib
from collections.abc import Sequence

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import converter, hashes, headers, metrics, pixels
from pixcrawler_worker.inspection.containers.header import Header
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.pixels import Pixels
from pixcrawler_worker.inspection.sheets import ThumbnailSheet


def inspect_bytes(body: bytes, limits: Limits, *, hashed: bool = True) -> ImageFacts:
    """Return what `body` is, in this process: without a deadline or a limit on memory (`Decoder` has both).

    A truncated file is rejected, except when only later pages of a TIFF are missing. What decoders repair silently is
    accepted: a JPEG with damaged pixels, a PNG whose data ends properly but before its last row.

    Args:
        body: the whole file.
        limits: what it may declare.
        hashed: whether the SHA-256 of the file is taken; otherwise it is empty.

    Raises:
        RejectedError: EMPTY, NOT_AN_IMAGE, UNSUPPORTED_FORMAT, TOO_COMPLEX, TOO_MANY_PIXELS or CORRUPT.
    """
    header = _decodable_header(body, limits)
    return _facts(body, header, pixels.decode(body, header.format, limits), hashed=hashed)


def measure_bytes(body: bytes, limits: Limits, *, strict: bool, hashed: bool = True) -> tuple[ImageFacts, Metrics]:
    """Return what `body` is, and what its pixels and tags say, by decoding it once. Otherwise as `inspect_bytes`.

    The hashes are taken from another reduction than those of `inspect_bytes`: some differ by a bit, so the two must not
    be compared with each other.
    """
    header = _decodable_header(body, limits)
    decoded, measured = metrics.measure(body, header.format, limits, strict=strict)
    return _facts(body, header, decoded, hashed=hashed), measured


def thumbnail(body: bytes, side: int, limits: Limits) -> bytes:
    """Return a JPEG of `body`, upright, on white, at most `side` pixels long and wide. Raises as `inspect_bytes`."""
    return pixels.thumbnail(body, _decodable_header(body, limits).format, side, limits)


def sheet(tiles: Sequence[bytes], side: int, limits: Limits) -> ThumbnailSheet:
    """Return JPEGs in cells of `side` pixels, each shrunk to fit into its own. Raises as `inspect_bytes`."""
    for tile in tiles:
        if _decodable_header(tile, limits).format != "jpg":
            raise RejectedError(Reason.UNSUPPORTED_FORMAT, "a thumbnail is a JPEG")
    return pixels.sheet(tiles, side, limits)


def crop(body: bytes, part: Crop, limits: Limits) -> bytes:
    """Return the pixels of a part of `body`, upright, on white, three bytes each. Raises as `inspect_bytes`."""
    return pixels.crop(body, _decodable_header(body, limits).format, part, limits)


def convert(body: bytes, conversion: Conversion, limits: Limits) -> Converted | None:
    """Return `body` converted; None when it is like that already, and its pixels were not decoded.

    Raises:
        RejectedError: as `inspect_bytes`; TOO_MANY_PIXELS and TOO_MANY_BYTES also for the result.
    """
    converted = converter.convert(body, _header(body, limits).format, conversion, limits)
    if converted and len(converted.body) > limits.max_converted_bytes:
        raise RejectedError(Reason.TOO_MANY_BYTES, f"the converted image has {len(converted.body):,} bytes")
    return converted


def _facts(body: bytes, header: Header, decoded: Pixels, *, hashed: bool) -> ImageFacts:
    # The boxes of an AVIF or HEIC give bounds only, and a JPEG XL's header the size before it is turned, which all
    # decoders of it do; for a TIFF, Pillow gives the size after turning it.
    size = decoded if header.format in {"avif", "heic", "jxl"} else header
    phash, dhash = hashes.hashes(decoded.gray)
    return ImageFacts(
        sha256=hashlib.sha256(body).digest() if hashed else b"",
        format=header.format,
        width=size.width,
        height=size.height,
        file_size=len(body),
        mode=decoded.mode,
        frames=header.frames,
        phash=phash,
        dhash=dhash,
    )


def _decodable_header(body: bytes, limits: Limits) -> Header:
    """Return what `body` declares, when decoding it is within the limits, too. Converting may take more memory."""
    header = _header(body, limits)
    limits.check_memory(header.width, header.height, header.pixel_bytes)
    return header


def _header(body: bytes, limits: Limits) -> Header:
    """Return what `body` declares, when it is within the limits."""
    if not body:
        raise RejectedError(Reason.EMPTY, "an empty body")
    header = headers.read(body, limits)
    limits.check_size(header.width, header.height)
    limits.check_frames(header.width, header.height, header.frames)
    limits.check_density(header.width, header.height, len(body))
    return header

"""Large still WebPs, scaled down while they are decoded, by the libwebp that Pillow is linked to.

Pillow decodes every WebP as an animation, for which it takes 16 to 20 bytes a pixel: 1 GB for 50 Mpx. libwebp alone
takes a few rows for lossy images, and at most four bytes a pixel for lossless ones.
"""

import ctypes
import struct
from functools import cache

from PIL import Image, _webp

#: Pixels that are left of a large image: enough for hashes, measurements and thumbnails.
_MAX_PIXELS = 1_000_000
#: Bytes that Pillow takes for a pixel.
BYTES_PER_PIXEL = 20
#: The interface of libwebp since 0.4 (`WEBP_DECODER_ABI_VERSION` in src/webp/decode.h); its structures are below.
_ABI_VERSION = 0x0208
_RGBA, _OK, _OUT_OF_MEMORY, _NOT_ENOUGH_DATA = 1, 0, 1, 7


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _RgbaBuffer(ctypes.Structure):
    _fields_ = (("rgba", ctypes.c_void_p), ("stride", ctypes.c_int), ("size", ctypes.c_size_t))


class _YuvaBuffer(ctypes.Structure):
    _fields_ = (("planes", ctypes.c_void_p * 4), ("strides", ctypes.c_int * 4), ("sizes", ctypes.c_size_t * 4))


class _Pixels(ctypes.Union):
    _fields_ = (("rgba", _RgbaBuffer), ("yuva", _YuvaBuffer))


class _Output(ctypes.Structure):
    _fields_ = (
        ("colorspace", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("is_external_memory", ctypes.c_int),
        ("pixels", _Pixels),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("bypass_filtering", ctypes.c_int),
        ("no_fancy_upsampling", ctypes.c_int),
        ("use_cropping", ctypes.c_int),
        ("crop", ctypes.c_int * 4),
        ("use_scaling", ctypes.c_int),
        ("scaled_width", ctypes.c_int),
        ("scaled_height", ctypes.c_int),
        ("use_threads", ctypes.c_int),
        ("dithering_strength", ctypes.c_int),
        ("flip", ctypes.c_int),
        ("alpha_dithering_strength", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    _fields_ = (("input", _Features), ("output", _Output), ("options", _Options))


def scaled(body: bytes) -> Image.Image | None:
    """Return a still WebP, scaled down by a whole factor, with its EXIF; None when it is an animation.

    Returns None also where libwebp cannot be reached through Pillow.

    Raises:
        ValueError: it is broken or truncated.
        MemoryError: it needs more memory than there is.
    """
    library = _library()
    if library is None:
        return None
    config = _Config()
    reference = ctypes.byref(config)
    if not library.WebPInitDecoderConfigInternal(reference, _ABI_VERSION):
        return None
    _check(library.WebPGetFeaturesInternal(body, len(body), ctypes.byref(config.input), _ABI_VERSION))
    if config.input.has_animation:
        return None
    width, height = config.input.width, config.input.height
    factor = 1
    while width * height > _MAX_PIXELS * factor * factor:
        factor += 1
    size = max(1, width // factor), max(1, height // factor)
    config.options.use_scaling, config.options.scaled_width, config.options.scaled_height = 1, *size
    config.output.colorspace = _RGBA
    try:
        _check(library.WebPDecode(body, len(body), reference))
        pixels = config.output.pixels.rgba
        image = Image.frombytes(
            "RGBA", size, ctypes.string_at(pixels.rgba, pixels.size), "raw", "RGBA", pixels.stride, 1
        )
    finally:
        library.WebPFreeDecBuffer(ctypes.byref(config.output))
    image = image if config.input.has_alpha else image.convert("RGB")
    if exif := _exif(body):
        image.info["exif"] = exif
    return image


@cache
def _library() -> ctypes.CDLL | None:
    try:
        # Symbols are looked up in what a library depends on, too.
        library = ctypes.CDLL(_webp.__file__)
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        library.WebPInitDecoderConfigInternal.argtypes = (pointer, number)
        library.WebPGetFeaturesInternal.argtypes = (ctypes.c_char_p, size, pointer, number)
        library.WebPDecode.argtypes = (ctypes.c_char_p, size, pointer)
        library.WebPFreeDecBuffer.argtypes = (pointer,)
    except (OSError, AttributeError):
        return None
    return library


def _check(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError
    if status != _OK:
        kind = "the data ends early" if status == _NOT_ENOUGH_DATA else f"libwebp's status {status}"
        raise ValueError(f"it cannot be decoded: {kind}")


def _exif(body: bytes) -> bytes | None:
    """Return the content of the first EXIF chunk (RFC 9649, 2.7.1.4)."""
    position = 12
    while position + 8 <= len(body):
        kind, size = struct.unpack_from("<4sI", body, position)
        if kind == b"EXIF":
            return body[position + 8 : position + 8 + size]
        position += 8 + size + (size & 1)
    return None

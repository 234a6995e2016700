"""Sound JPEGs, decoded at a reduced scale by TurboJPEG: the same pixels as Pillow's, in a fifth less time.

Pillow gives its decoder a file in pieces of 64 kB, and copies what is left of each; TurboJPEG has all of it at once.
Both are built on libjpeg-turbo.
"""

import simplejpeg
from PIL import Image

#: By Pillow's mode of an opened file: the same of TurboJPEG.
_MODES = {"RGB": "RGB", "L": "GRAY"}


def decoded(body: bytes, opened: Image.Image) -> Image.Image | None:
    """Return the pixels of a file in the size and mode of an image that is open, and reduced by `draft`.

    Returns:
        None when it is for Pillow to decode: with warnings, which can mean that it is truncated, or of other colors.
    """
    mode = _MODES.get(opened.mode)
    if mode is None:
        return None
    width, height = opened.size
    try:
        # No smaller scale has as many pixels, and all larger ones have more.
        pixels = simplejpeg.decode_jpeg(body, colorspace=mode, min_width=width, min_height=height, strict=True)
    except (ValueError, MemoryError):
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return Image.frombuffer(opened.mode, opened.size, pixels, "raw", opened.mode, 0, 1)

"""What Python, Pillow and NumPy import only when an image needs it: in the sandbox, they could not any more."""

import encodings.ascii
import encodings.latin_1
import encodings.utf_8
import encodings.utf_16
import encodings.utf_16_be
import encodings.utf_16_le
import linecache  # of tracebacks

import numpy.ma
from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageCms,
    ImageColor,
    ImageFilter,
    ImageOps,
    ImagePalette,
    ImageSequence,
    MpoImagePlugin,
    TiffTags,
)

Image.preinit()

__all__ = [
    "ExifTags",
    "ImageChops",
    "ImageCms",
    "ImageColor",
    "ImageFilter",
    "ImageOps",
    "ImagePalette",
    "ImageSequence",
    "MpoImagePlugin",
    "TiffTags",
    "encodings",
    "linecache",
    "numpy",
]

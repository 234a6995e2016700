"""HEIC images, reduced by a whole factor in bands: the plug-in of Pillow would keep all of their pixels once more."""

from io import BytesIO
from types import ModuleType
from typing import Any

from PIL import Image

#: Pixels that are left of an image: enough for hashes, measurements and thumbnails.
MAX_PIXELS = 1_000_000
#: Pixels of a band.
_BAND_PIXELS = 1_000_000


def reduced(body: bytes, module: ModuleType) -> Image.Image:
    """Return the main image of a HEIC: reduced, turned as the file says, with its EXIF and its `full_size`.

    Args:
        body: the whole file.
        module: pillow_heif.
    """
    image = module.open_heif(BytesIO(body), convert_hdr_to_8bit=True)
    width, height = image.size
    data, mode, stride = memoryview(image.data), image.mode, image.stride
    width, height = image.size  # may change with the first use of the data
    factor = 1
    while width * height > MAX_PIXELS * factor * factor:
        factor += 1
    rows = max(_BAND_PIXELS // width // factor, 1) * factor
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        part: Any = data[top * stride : bottom * stride]  # a buffer, which Pillow takes though it has no type for it
        band = Image.frombuffer(mode, (width, bottom - top), part, "raw", mode, stride, 1)
        # Pillow averages no 16 bits.
        bands.append(band.convert("I").reduce(factor).convert(mode) if mode == "I;16" else band.reduce(factor))
    whole = Image.new(mode, (bands[0].width, sum(band.height for band in bands)))
    top = 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    whole.info["full_size"] = width, height
    if exif := image.info.get("exif"):
        whole.info["exif"] = exif
    return whole

"""How an image is to be converted, and the result. The worker imports this: no Pillow here."""

import re
from dataclasses import dataclass
from typing import Literal

from pixcrawler_worker.domain.facts import WRITTEN_FORMATS

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_BEST_QUALITY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How an image is to be converted.

    What is converted is encoded again: of an animation its first frame, CMYK as RGB, without comments, XMP, MakerNote
    and thumbnails. The ICC profile stays, even with `strip`, because it says what the colors mean: colors are not
    converted to sRGB. It is left out where the format holds none (gif, bmp), and where it is that of another kind of
    colors than the ones that are written (CMYK).

    Attributes:
        format: extension of the format to write, one of `domain.facts.WRITTEN_FORMATS`.
        mode: None keeps the size. `fit`: the longer side has `size` pixels. `cover`: `size` x `size`, the rest is
            cut off on both sides. `pad`: as `fit`, then centered on `size` x `size` of the background. `shortest`: the
            shorter side has `size` pixels.
        size: pixels; not used without a mode.
        only_shrink: never enlarge. A smaller image is kept by `fit` and `shortest`, cut to at most `size` a side by
            `cover`, so that it may be smaller than that, and still centered on `size` x `size` by `pad`.
        quality: 1 to 100, of JPEG, WebP and AVIF. A JPEG that is written as one of its own size keeps its own.
        background: `#rrggbb`, behind transparency where the format has none (jpg, bmp), and around what is padded.
        orient: turn the pixels as EXIF says, and drop what it said. Otherwise they stay as they are stored, with
            that tag if EXIF is kept, except those of a TIFF, which are turned whenever they are rewritten.
        strip: leave out EXIF, too. It is kept in part otherwise, by the formats that hold it (all but gif and bmp):
            camera and exposure, author, copyright, dates and place. Broken EXIF is left out.

    Raises:
        ValueError: on an invalid value.
    """

    format: str
    mode: Literal["fit", "cover", "pad", "shortest"] | None = None
    size: int = 0
    only_shrink: bool = True
    quality: int = 90
    background: str = "#ffffff"
    orient: bool = True
    strip: bool = False

    def __post_init__(self) -> None:
        if self.format not in WRITTEN_FORMATS:
            raise ValueError(f"{self.format!r} is not one of {', '.join(WRITTEN_FORMATS)}")
        if self.mode is not None and self.size < 1:
            raise ValueError(f"{self.mode} needs a size above 0, not {self.size}")
        if not 1 <= self.quality <= _BEST_QUALITY:
            raise ValueError(f"quality is 1 to {_BEST_QUALITY}, not {self.quality}")
        if not _COLOR.fullmatch(self.background):
            raise ValueError(f"{self.background!r} is not #rrggbb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A converted image.

    Attributes:
        body: the whole file.
        format: its extension, as `Conversion.format`.
        width: pixels.
        height: pixels.
    """

    body: bytes
    format: str
    width: int
    height: int

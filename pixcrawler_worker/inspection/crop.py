"""The part of an image that a model gets. The worker imports this: no Pillow here."""

from dataclasses import dataclass

#: The longest side of a part, and what images are resized to at most, in pixels. With more, the largest images need
#: more memory than the decoder has.
MAX_SIDE = 512
#: Numbers of Pillow's filters: nearest, Lanczos, bilinear, bicubic, box, Hamming.
FILTERS = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The part of an image that a model gets: the image is resized, and the part cut out of its middle.

    Attributes:
        width: of the part, pixels.
        height: of the part, pixels.
        resized: the pixels that the shorter side is resized to; or width and height, whatever the shape of the image.
            Neither is less than that of the part.
        resampling: the filter, as Pillow numbers them: 2 is bilinear, 3 bicubic.

    Raises:
        ValueError: on an invalid value.
    """

    width: int
    height: int
    resized: int | tuple[int, int]
    resampling: int = 3

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"a part has 1 to {MAX_SIDE} pixels a side, not {self.width}x{self.height}")
        across, down = self.resized if isinstance(self.resized, tuple) else (self.resized, self.resized)
        if not (self.width <= across <= MAX_SIDE and self.height <= down <= MAX_SIDE):
            raise ValueError(
                f"an image is resized to the {self.width}x{self.height} pixels of the part at least, and to"
                f" {MAX_SIDE} at most, not {across}x{down}"
            )
        if self.resampling not in FILTERS:
            raise ValueError(f"there is no filter {self.resampling}")

    @property
    def size(self) -> int:
        """Bytes of the part: three for each pixel, red, green and blue."""
        return self.width * self.height * 3

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import headers
from pixcrawler_worker.inspection.containers import jxl
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize(
    "size",
    # Multiples of 8 and others, ratios and none, and every number of bits that a side may have.
    [
        (8, 8),
        (256, 256),
        (264, 8),
        (1, 1),
        (300, 300),
        (257, 100),
        (1200, 1000),
        (4, 3),
        (1920, 1080),
        (20, 16),
        (9000, 10),
    ],
)
def test_the_size_is_read_as_the_decoder_reads_it(size: tuple[int, int], *, container: bool) -> None:
    body = samples.encoded(Image.new("L", size), "JXL", use_container=container)

    header = headers.read(body, LIMITS)

    assert (header.format, header.width, header.height, header.frames) == ("jxl", *size, 1)


def bits(*fields: tuple[int, int]) -> bytes:
    """A codestream that begins with numbers, each with its number of bits."""
    number = position = 0
    for value, width in fields:
        number |= value << position
        position += width
    return jxl.CODESTREAM + number.to_bytes(12, "little")


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (bits((0, 1), (3, 2), (2**30 - 1, 30), (0, 3), (3, 2), (2**30 - 1, 30)), (2**30, 2**30)),
        (bits((0, 1), (0, 2), (8, 9), (5, 3)), (16, 9)),
        (bits((1, 1), (31, 5), (7, 3)), (512, 256)),
        (bits((0, 1), (2, 2), (99_999, 18), (2, 3)), (120_000, 100_000)),
    ],
)
def test_a_size_of_any_bits_is_read(body: bytes, size: tuple[int, int]) -> None:
    assert jxl.size(body, LIMITS)[:2] == size


def boxed(*boxes: bytes) -> bytes:
    return jxl.CONTAINER + samples.box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(boxes)


STREAM = bits((1, 1), (31, 5), (7, 3))


@pytest.mark.parametrize(
    "body",
    [
        boxed(samples.box(b"jxll", b"\5"), samples.box(b"jxlc", STREAM)),
        boxed(samples.box(b"jxlp", b"\0\0\0\0" + STREAM), samples.box(b"jxlp", b"\x80\0\0\1")),
        boxed(b"\0\0\0\0jxlc" + STREAM),
        boxed(b"\0\0\0\1jxlc" + (16 + len(STREAM)).to_bytes(8) + STREAM),
    ],
    ids=["whole", "in parts", "to the end of the file", "with a long size"],
)
def test_a_codestream_is_found_in_its_box(body: bytes) -> None:
    assert jxl.size(body, LIMITS)[:2] == (512, 256)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (jxl.CODESTREAM, Reason.CORRUPT),
        (jxl.CODESTREAM + b"\0", Reason.CORRUPT),
        (boxed(), Reason.CORRUPT),
        (boxed(samples.box(b"jxlc", b"nothing")), Reason.CORRUPT),
        (boxed(b"\0\0\0\3free"), Reason.CORRUPT),
        # A size that continues in the next part would be read wrong.
        (
            boxed(samples.box(b"jxlp", b"\0\0\0\0" + STREAM[:3]), samples.box(b"jxlp", b"\0\0\0\1" + STREAM[3:])),
            Reason.CORRUPT,
        ),
        (boxed(samples.box(b"free", b"") * 90_000), Reason.TOO_COMPLEX),
        (bits((0, 1), (3, 2), (2**30 - 1, 30), (1, 3)), Reason.TOO_MANY_PIXELS),
        (bits((0, 1), (1, 2), (7999, 13), (1, 3)), Reason.TOO_MANY_PIXELS),
    ],
)
def test_a_hostile_one_is_rejected_before_it_is_decoded(body: bytes, reason: Reason) -> None:
    with pytest.raises(RejectedError) as rejected:
        inspect_bytes(body, LIMITS)
    assert rejected.value.reason is reason


def test_an_image_with_alpha_or_more_than_eight_bits_is_no_plain_one() -> None:
    plain = samples.encoded(samples.scene(64, 48), "JXL")
    alpha = samples.encoded(samples.scene(64, 48).convert("RGBA"), "JXL")
    deep = samples.encoded(Image.new("I;16", (64, 48)), "JXL")

    assert [jxl.size(body, LIMITS)[2] for body in (plain, alpha, deep)] == [True, False, False]
    assert headers.read(plain, LIMITS).pixel_bytes < headers.read(alpha, LIMITS).pixel_bytes

import pytest
from inspection import samples

from pixcrawler_worker.domain.facts import WRITTEN_FORMATS, ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import framing, pixels
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
FACTS = ImageFacts(
    sha256=bytes(range(32)),
    format="png",
    width=3,
    height=2,
    file_size=70,
    mode="RGB",
    frames=1,
    phash=2**64 - 1,
    dhash=0,
)


@pytest.mark.parametrize("message", [b"", b"x", b"\n" * 100_000])
def test_a_message_is_complete_after_its_last_byte_and_not_before(message: bytes) -> None:
    framed = framing.frame(message)
    assert all(framing.unframe(framed[:length]) is None for length in range(min(len(framed), 200)))
    assert framing.unframe(framed[:-1]) is None
    assert framing.unframe(framed) == message
    assert framing.unframe(framed + framing.frame(b"the next one")) == message


def test_facts_are_read_as_they_were_written() -> None:
    assert framing.read_facts(framing.facts_response(FACTS), LIMITS) == FACTS


@pytest.mark.parametrize("body", [b"", b"\n", b"a\nb\n", bytes(range(256))])
def test_a_conversion_and_an_image_are_split_as_they_were_joined(body: bytes) -> None:
    for format_ in WRITTEN_FORMATS:
        conversion = Conversion(format=format_, mode="pad", size=7, background="#010203", strip=True)
        assert framing.split_conversion(framing.join_conversion(conversion, body)) == (conversion, body)


@pytest.mark.parametrize("resized", [7, 512, (9, 12), (512, 512)])
def test_a_crop_is_unpacked_as_it_was_packed(resized: int | tuple[int, int]) -> None:
    for crop in (Crop(width=5, height=7, resized=resized, resampling=5), Crop(width=1, height=1, resized=resized)):
        assert framing.unpack_crop(framing.pack_crop(crop)) == crop
    largest = Crop(width=512, height=512, resized=(512, 512), resampling=5)
    assert len(framing.REQUEST.pack(1, framing.Operation.CROP, framing.pack_crop(largest))) == framing.REQUEST.size


@pytest.mark.parametrize("pixels", [b'{"rejected": "corrupt", "d' + bytes(22), bytes(range(48)), b"RGB " * 12])
def test_pixels_are_read_as_they_were_written_whatever_they_are(pixels: bytes) -> None:
    crop = Crop(width=4, height=4, resized=4)
    response = framing.crop_response(pixels)
    assert framing.read_crop(response, crop) == pixels
    for forged in (response[:-1], response + b"x", pixels, b""):
        with pytest.raises(framing.InvalidResponseError):
            framing.read_crop(forged, crop)


@pytest.mark.parametrize("end", [b"{}", b"\n\n", bytes(range(256))])
def test_a_converted_image_is_read_as_it_was_written(end: bytes) -> None:
    converted = Converted(body=b"\x89PNG\r\n\x1a\n" + end, format="png", width=3, height=2)
    assert framing.read_converted(framing.conversion_response(converted), "png", LIMITS) == converted
    assert framing.read_converted(framing.conversion_response(None), "png", LIMITS) is None


@pytest.mark.parametrize(
    "read",
    [
        lambda response: framing.read_facts(response, LIMITS),
        lambda response: framing.read_metrics(response, LIMITS),
        framing.read_thumbnail,
        lambda response: framing.read_sheet(response, tiles=1, side=9),
        lambda response: framing.read_converted(response, "png", LIMITS),
        lambda response: framing.read_crop(response, Crop(width=4, height=4, resized=4)),
    ],
)
def test_every_reader_raises_a_rejection_with_its_reason_and_detail(read: object) -> None:
    assert callable(read)
    response = framing.rejection_response(RejectedError(Reason.CORRUPT, "the file ends\ninside its header"))
    with pytest.raises(RejectedError, match="inside its header") as rejected:
        read(response)
    assert rejected.value.reason is Reason.CORRUPT


@pytest.mark.parametrize("format_", WRITTEN_FORMATS)
def test_what_begins_like_another_format_is_no_converted_image(format_: str) -> None:
    body = samples.encoded(samples.scene(9, 9), pixels.PILLOW[format_] or "")
    converted = framing.conversion_response(Converted(body=body, format=format_, width=9, height=9))
    assert framing.read_converted(converted, format_, LIMITS) is not None
    forged = framing.conversion_response(Converted(body=b"<svg>" + body, format=format_, width=9, height=9))
    with pytest.raises(framing.InvalidResponseError, match=f"no {format_}"):
        framing.read_converted(forged, format_, LIMITS)


def test_a_program_that_is_ready_without_a_word_has_no_sandbox() -> None:
    assert framing.read_ready(b"") == {}
    assert framing.read_ready(framing.ready_response({"seccomp": "", "landlock": "not there"})) == {
        "seccomp": "",
        "landlock": "not there",
    }

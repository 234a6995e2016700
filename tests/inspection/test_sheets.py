import asyncio
import json
import random
from contextlib import aclosing
from io import BytesIO

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import framing, inspector, sheets
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.framing import InvalidResponseError
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.sheets import ThumbnailSheet

JPEG = b"\xff\xd8\xff"


def tile(color: str, width: int, height: int) -> bytes:
    return samples.encoded(Image.new("RGB", (width, height), color), "JPEG")


def test_tiles_are_split_as_they_were_joined() -> None:
    tiles = [b"", b"one", bytes(range(256)) * 3]
    assert sheets.split_tiles(sheets.join_tiles(tiles)) == tiles
    assert sheets.split_tiles(b"") == []


def test_each_thumbnail_is_at_the_top_left_of_its_cell_and_fits_into_it() -> None:
    colors = ["red", "lime", "blue", "white", "black"]
    sizes = [(48, 20), (20, 48), (10, 10), (96, 96), (200, 100)]
    tiles = [tile(color, *size) for color, size in zip(colors, sizes, strict=True)]

    async def made() -> ThumbnailSheet:
        async with aclosing(Decoder(Limits())) as decoder:
            return await decoder.sheet(tiles, side=48)

    found = asyncio.run(made())
    assert found.sizes == ((48, 20), (20, 48), (10, 10), (48, 48), (48, 24))
    image = Image.open(BytesIO(found.body), formats=["JPEG"]).convert("RGB")
    assert image.size == (4 * 48, 2 * 48)
    for number, color in enumerate(colors):
        row, column = divmod(number, sheets.COLUMNS)
        pixel = image.getpixel((column * 48 + 4, row * 48 + 4))
        assert pixel == pytest.approx(Image.new("RGB", (1, 1), color).getpixel((0, 0)), abs=20), color


def test_thumbnails_and_sheets_of_noise_are_received_however_many_bytes_they_have() -> None:
    noise = Image.frombytes("RGB", (640, 640), random.Random(1).randbytes(640 * 640 * 3))
    tiles = [samples.encoded(noise.crop((0, 0, 160, 160)), "JPEG", quality=95)] * sheets.CELLS

    async def made() -> tuple[bytes, ThumbnailSheet]:
        async with aclosing(Decoder(Limits())) as decoder:
            await decoder.sandbox()
            before = decoder.pid
            large = await decoder.thumbnail(samples.encoded(noise, "PNG", compress_level=1), side=640)
            sheet = await decoder.sheet(tiles, side=160)
            assert decoder.pid == before
            return large, sheet

    large, sheet = asyncio.run(made())
    assert min(len(large), len(sheet.body)) > 150_000
    assert Image.open(BytesIO(large)).size == (640, 640)
    assert sheet.sizes == ((160, 160),) * sheets.CELLS


def test_a_small_sheet_is_as_wide_as_its_tiles() -> None:
    found = inspector.sheet([tile("red", 9, 9)] * 2, 16, Limits())
    assert Image.open(BytesIO(found.body)).size == (32, 16)


def test_what_is_no_jpeg_is_rejected() -> None:
    png = samples.encoded(Image.new("RGB", (9, 9)), "PNG")
    with pytest.raises(RejectedError) as rejected:
        inspector.sheet([tile("red", 9, 9), png], 16, Limits())
    assert rejected.value.reason is Reason.UNSUPPORTED_FORMAT
    with pytest.raises(RejectedError) as rejected:
        inspector.sheet([tile("red", 9, 9)[:200]], 16, Limits())
    assert rejected.value.reason is Reason.CORRUPT


def test_a_sheet_has_1_to_16_cells() -> None:
    decoder = Decoder(Limits())
    for tiles, side in (([], 16), ([b""] * 17, 16), ([b""], 0), ([b""], 1025)):
        with pytest.raises(ValueError, match="a sheet has 1 to 16 cells of 1 to 1024 pixels"):
            asyncio.run(decoder.sheet(tiles, side=side))


@pytest.mark.parametrize(
    "sizes", [None, [], [[9, 9], [9, 9]], [[9]], [[9, 9, 9]], [[0, 9]], [[9, 17]], [[True, 9]], [[9.0, 9]], [["9", 9]]]
)
def test_sizes_that_no_thumbnails_have_are_not_believed(sizes: object) -> None:
    with pytest.raises(InvalidResponseError, match="sizes that no thumbnails have"):
        framing.read_sheet(json.dumps({"sizes": sizes}).encode() + b"\n" + JPEG, tiles=1, side=16)


def test_a_sheet_is_read_as_it_was_written_and_is_a_jpeg() -> None:
    sheet = ThumbnailSheet(JPEG + b"\n{}\n", ((3, 16),))
    assert framing.read_sheet(framing.sheet_response(sheet), tiles=1, side=16) == sheet
    with pytest.raises(InvalidResponseError, match="no JPEG"):
        framing.read_sheet(framing.sheet_response(ThumbnailSheet(b"<svg>", ((3, 16),))), tiles=1, side=16)

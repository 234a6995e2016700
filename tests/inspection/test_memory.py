"""What a worker's process and its decoder take together for the worst that hosts may send, within the limits."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

#: A program of the decode process: some images leave memory, others lack it, always or only then.
SCATTERING = """
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import __main__, framing
from pixcrawler_worker.inspection.limits import OutOfMemoryError

left = []

def respond(body, operation, parameter, limits):
    if body == b"too large" or (body == b"large" and left):
        raise OutOfMemoryError
    if body == b"leaves much":
        left.append(bytearray(8_000_000))
    return framing.rejection_response(RejectedError(Reason.CORRUPT, "looked at"))

__main__.main(respond)
"""
#: A process of a worker with its decoder, without its responses: below this, with a few of them.
MAX_BYTES = 400_000_000
#: Looks at images as a chunk of a crawl and a chunk of a validation do, in a process with what one of a worker imports.
CHILD = """
import asyncio, json, sys
from contextlib import aclosing, suppress
from pathlib import Path
from pixcrawler_worker import celery, tasks
from pixcrawler_worker.crawl import worker
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

def peak(pid):
    # A process that has ended has no status, or one without memory until its parent has noticed.
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return 0

async def watch(decoder, peaks):
    # Also while an image is decoded: afterwards the process may have ended.
    while True:
        note(decoder, peaks)
        await asyncio.sleep(0.01)

def note(decoder, peaks):
    if decoder.pid:
        peaks[decoder.pid] = max(peaks.get(decoder.pid, 0), peak(decoder.pid))

async def look_at(paths):
    peaks, results = {}, {}
    async with aclosing(Decoder(Limits(seconds=100))) as decoder:
        watching = asyncio.create_task(watch(decoder, peaks))
        for path in paths:
            body = path.read_bytes()
            for name, look in (
                ("crawl", lambda: decoder.inspect(body)),
                ("validation", lambda: decoder.measure(body, strict=True, seconds=100)),
                ("thumbnail", lambda: decoder.thumbnail(body, side=256)),
                ("crop", lambda: decoder.crop(body, Crop(width=224, height=224, resized=224))),
            ):
                try:
                    await look()
                    result = "accepted"
                except RejectedError as rejected:
                    result = rejected.reason
                results.setdefault(path.name, []).append(result)
                note(decoder, peaks)
            body = b""  # not kept while the next one is read
        watching.cancel()
    return peaks, results

peaks, results = asyncio.run(look_at(sorted(Path(sys.argv[1]).iterdir())))
print(json.dumps({"worker": peak("self"), "decoder": max(peaks.values()), "results": results}))
"""


def largest() -> Iterator[tuple[str, bytes]]:
    """The largest images of each kind that are accepted, which take their decoders the most."""
    scene = samples.scene(510, 382)
    deep = scene.convert("L").convert("I").point(lambda value: value * 200)

    def image(megapixels: float, mode: str = "RGB") -> Image.Image:
        factor = (megapixels * 1e6 / (510 * 382)) ** 0.5
        source = deep if mode in ("I;16", "I") else scene
        # Enlarged as it is, so that it stays within 20 MiB.
        return source.resize((int(510 * factor), int(382 * factor)), Image.Resampling.NEAREST).convert(mode)

    webp = {"method": 0, "quality": 20}
    yield "png", samples.encoded(image(37.4), "PNG", compress_level=1)
    yield "png with alpha", samples.encoded(image(37.4, "RGBA"), "PNG", compress_level=1)
    yield "png of 16 bits", samples.encoded(image(49.9, "I;16"), "PNG", compress_level=1)
    yield "png with a palette", samples.encoded(image(49.9, "P"), "PNG", compress_level=1)
    yield "jpg", samples.encoded(image(49.9), "JPEG", quality=50)
    yield "jpg, progressive", samples.encoded(image(49.9), "JPEG", progressive=True, quality=50)
    yield "jpg, progressive, 4:4:4", samples.encoded(image(24.9), "JPEG", progressive=True, subsampling=0, quality=50)
    yield "jpg, progressive, CMYK", samples.encoded(image(18.7, "CMYK"), "JPEG", progressive=True, quality=50)
    yield "webp", samples.encoded(image(49.9), "WEBP", **webp)
    yield "webp with alpha", samples.encoded(image(49.9, "RGBA"), "WEBP", **webp)
    yield "webp, lossless", samples.encoded(image(33), "WEBP", lossless=True, method=0, quality=0)
    yield (
        "webp, an animation",
        samples.encoded(image(7.4), "WEBP", save_all=True, append_images=[image(7.4).rotate(180)], **webp),
    )
    yield "gif", samples.encoded(image(40, "P"), "GIF")
    yield "tiff", samples.encoded(image(37.4), "TIFF", compression="tiff_deflate")
    yield "tiff in one strip", samples.encoded(image(21.4), "TIFF", compression="tiff_deflate", strip_size=2**31 - 1)
    yield "tiff of numbers", samples.encoded(image(37.4, "I"), "TIFF", compression="tiff_deflate")
    yield "avif", samples.encoded(image(16.6), "AVIF", speed=10, quality=30)
    yield "avif with alpha", samples.encoded(image(16.6, "RGBA"), "AVIF", speed=10, quality=30)
    yield "heic", samples.encoded(image(24.4), "HEIF", quality=20)
    yield "jxl", samples.encoded(image(16.6), "JXL", effort=1, quality=30)
    yield "jxl with alpha", samples.encoded(image(12.4, "RGBA"), "JXL", effort=1, quality=30)


def liars() -> Iterator[tuple[str, bytes]]:
    """Images whose pixels are far more than their headers say."""
    avif = bytearray(samples.encoded(samples.scene(800, 600).resize((9000, 9000)), "AVIF", speed=10, quality=1))
    box = avif.index(b"ispe")
    avif[box + 8 : box + 16] = (64).to_bytes(4) + (64).to_bytes(4)
    yield "avif whose frame is larger than it says", bytes(avif)
    heic = bytearray(samples.encoded(samples.scene(800, 600).resize((7000, 7000)), "HEIF", quality=1))
    box = heic.index(b"ispe")
    heic[box + 8 : box + 16] = (64).to_bytes(4) + (64).to_bytes(4)
    yield "heic whose frame is larger than it says", bytes(heic)


@pytest.mark.scale
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited, and read, on Linux only")
def test_a_worker_and_its_decoder_stay_below_400_megabytes_whatever_hosts_send(tmp_path: Path) -> None:
    accepted = dict(largest())
    hostile = {name: make() for name, (make, _) in samples.hostile().items()} | dict(liars())
    (images := tmp_path / "images").mkdir()
    for name, body in (accepted | hostile).items():
        assert len(body) <= 20 * 2**20, name
        (images / name.replace("/", " ")).write_bytes(body)
    command = [sys.executable, "-c", CHILD, str(images)]
    # As a worker that is installed: compiling modules takes memory, and some environments keep none of it.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    environment = os.environ | compiled | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", CHILD.partition("def ")[0]], env=environment, check=True, timeout=300)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)

    assert {name: found["results"][name] for name in accepted} == {name: ["accepted"] * 4 for name in accepted}
    assert all(set(results) == {"accepted"} or "accepted" not in results for results in found["results"].values())
    assert found["worker"] + found["decoder"] < MAX_BYTES
    # What is let through is bounded by the limit itself, not by chance.
    assert found["decoder"] < Limits().decoding_bytes + 70_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited, and read, on Linux only")
def test_what_images_leave_costs_no_later_one_its_memory() -> None:
    async def story() -> list[tuple[Reason, bool]]:
        found = []
        async with aclosing(Decoder(Limits(), ("-P", "-c", SCATTERING))) as decoder:
            for body in (b"too large", b"large", b"leaves much", b"large", b"leaves much", b"too large", b"too large"):
                before = decoder.pid
                with pytest.raises(RejectedError) as rejected:
                    await decoder.inspect(body)
                found.append((rejected.value.reason, before in {None, decoder.pid}))
        return found

    lacking, looked_at = Reason.TOO_MANY_PIXELS, Reason.CORRUPT
    assert asyncio.run(story()) == [
        (lacking, True),
        (looked_at, True),
        (looked_at, True),
        (looked_at, False),
        (looked_at, True),
        (lacking, False),
        (lacking, True),
    ]

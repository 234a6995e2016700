"""Images with known defects, and what a validation must find in each."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factories import make_facts
from fakes.hosts import HTML, bomb
from PIL import Image, ImageFilter

from pixcrawler_worker.db import images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.models import Image as ImageRow
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.runtime import Runtime

SIZE = (400, 300)
#: Images in the wheel of scikit-image that are large enough for several different views.
_PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "ihc.png", "hubble_deep_field.jpg")


@dataclass(frozen=True)
class Planted:
    """A file and its defects.

    Attributes:
        name: of the file, with its extension.
        body: its bytes; None for a file that is not there.
        checks: that must find something.
        recorded: whether the crawl measured it: such a row has facts, those of `was` where the file was changed since.
        was: what the crawl saw.
    """

    name: str
    body: bytes | None
    checks: frozenset[str] = frozenset()
    recorded: bool = True
    was: bytes | None = None
    credit: Credit = field(default_factory=Credit)


def photograph(name: str) -> Image.Image:
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Image.open(Path(spec.origin).parent / "data" / name).convert("RGB")


@cache
def views() -> list[Image.Image]:
    """Different photographs: several views of each of a few. Their sizes differ a little, as sizes do."""
    found: list[Image.Image] = []
    for name in _PHOTOGRAPHS:
        whole = photograph(name)
        scale = max(SIZE[0] * 1.6 / whole.width, SIZE[1] * 1.6 / whole.height)
        whole = whole.resize((round(whole.width * scale), round(whole.height * scale)))
        right, bottom = whole.width - SIZE[0], whole.height - SIZE[1]
        for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
            more = 2 * len(found) - 24
            view = whole.crop((left, top, left + SIZE[0], top + SIZE[1]))
            found.append(view.resize((SIZE[0] + more, SIZE[1] + more)))
    return found


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return out.getvalue()


def exif(**tags: object) -> bytes:
    made = Image.Exif()
    if "orientation" in tags:
        made[0x0112] = tags["orientation"]
    if "gps" in tags:
        made.get_ifd(0x8825)[1] = "N"
    return made.tobytes()


def clean() -> Iterator[Planted]:
    """Photographs without defects, in several formats."""
    for number, view in enumerate(views()):
        kind, extension = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))[number % 3]
        yield Planted(f"clean-{number}.{extension}", saved(view, kind))


def defective() -> Iterator[Planted]:
    """One or a few files for every check."""
    turned = [view.transpose(Image.Transpose.ROTATE_180) for view in views()]
    bodies = [saved(view) for view in turned]
    for number, kind in enumerate(("JPEG", "PNG", "WEBP")):
        whole = saved(turned[number], kind)
        cut = whole[: len(whole) * 6 // 10]
        yield Planted(f"cut-{number}.{kind[:3].lower()}", cut, decode("content_hash"), was=whole)
        yield Planted(f"cut-unseen-{number}.{kind[:3].lower()}", cut[:-7], decode(), recorded=False)
    yield Planted("bomb.png", bomb(), decode(), recorded=False)
    yield Planted("page.jpg", HTML * 20, decode(), recorded=False)
    yield Planted("missing.jpg", None, decode(), was=bodies[3])
    yield Planted("changed.jpg", bodies[4], frozenset({"content_hash"}), was=bodies[4] + b"\0")
    yield Planted("dark.jpg", saved(turned[5].point(lambda value: value * 0.1)), frozenset({"dark"}))
    yield Planted("light.jpg", saved(turned[6].point(lambda value: 243 + value / 22)), frozenset({"light"}))
    for number in (7, 8):
        blurred = turned[number].filter(ImageFilter.GaussianBlur(8))
        yield Planted(f"blurred-{number}.jpg", saved(blurred), frozenset({"blurry"}))
    yield Planted("one-color.png", saved(Image.new("RGB", SIZE, "teal"), "PNG", compress_level=0), flat())
    yield Planted("small.jpg", saved(turned[9].resize((63, 64))), frozenset({"dimensions", "odd_size"}))
    icon = saved(turned[9].resize((16, 16)), quality=20)
    yield Planted("icon.jpg", icon, frozenset({"dimensions", "file_size", "odd_size"}))
    yield Planted("large.jpg", saved(turned[10].resize((1600, 1200))), frozenset({"odd_size"}))
    yield Planted("strip.jpg", saved(turned[11].resize((600, 190))), frozenset({"aspect_ratio"}))
    yield Planted("wrong.jpg", saved(turned[12], "PNG"), frozenset({"extension_match"}))
    yield Planted("wrong-too.png", saved(turned[13], "GIF"), frozenset({"extension_match", "color_mode"}))
    gray = turned[14].convert("L")
    yield Planted("gray.jpg", saved(gray), frozenset({"grayscale"}))
    moving = saved(turned[15], "GIF", save_all=True, append_images=[turned[16]])
    yield Planted("moving.gif", moving, frozenset({"animated", "color_mode"}))
    yield Planted("cmyk.jpg", saved(turned[17].convert("CMYK")), frozenset({"color_mode"}))
    holed = turned[18].convert("RGBA")
    holed.putalpha(Image.linear_gradient("L").resize(holed.size))
    yield Planted("holed.png", saved(holed, "PNG"), frozenset({"transparency", "color_mode"}))
    yield Planted("turned.jpg", saved(turned[19], exif=exif(orientation=6)), frozenset({"exif_orientation"}))
    yield Planted("placed.jpg", saved(turned[20], exif=exif(gps=True)), frozenset({"exif_gps"}))
    # The same bytes three times, under names that another program gave them: the oldest row is kept.
    yield Planted("same-1.jpg", bodies[21], recorded=False)
    yield Planted("same-2.jpg", bodies[21], frozenset({"exact_duplicate"}), recorded=False)
    yield Planted("same-3.jpg", bodies[21], frozenset({"exact_duplicate"}), recorded=False)
    # The largest near duplicate is kept.
    for number in (22, 23):
        yield Planted(f"alike-{number}.jpg", saved(turned[number]))
        yield Planted(f"alike-{number}-again.jpg", saved(turned[number], quality=60), frozenset({"near_duplicate"}))
        smaller = turned[number].resize((360, 270))
        yield Planted(f"alike-{number}-smaller.png", saved(smaller, "PNG"), frozenset({"near_duplicate"}))


def decode(*others: str) -> frozenset[str]:
    return frozenset({"decode", *others})


def flat() -> frozenset[str]:
    return frozenset({"uniform", "low_information"})


def store(runtime: Runtime, crawl_job_id: int, planted: list[Planted], *, measured: bool = False) -> Mapping[str, int]:
    """Put files into the storage and their rows into a crawl job; return the ids of the rows by the files' names.

    Args:
        runtime: whose storage and database.
        crawl_job_id: whose images they are.
        planted: the files.
        measured: whether their rows have metrics, as a crawl writes them now; otherwise as older versions did.
    """
    ids = {}
    for one in planted:
        key = f"crawl_jobs/{crawl_job_id}/cat/{one.name}"
        if one.body is not None:
            runtime.run(runtime.storage.put(key, one.body))
        url = runtime.storage.url(key)
        with runtime.sessions.begin() as session:
            if one.recorded:
                facts, metrics = _facts(one.was or one.body or b"", measured=measured)
                image = NewImage(
                    url=f"https://example.org/{one.name}",
                    url_hash=url_hash(f"https://example.org/{one.name}"),
                    filename=one.name,
                    storage_url=url,
                    facts=facts,
                    label="cat",
                    query="cat",
                    source="urls",
                    credit=one.credit,
                    metrics=metrics,
                )
                assert images.insert_new(session, crawl_job_id, [image]) == [0], f"{one.name} is there twice"
            else:
                session.add(
                    ImageRow(
                        crawl_job_id=crawl_job_id,
                        original_url=f"https://example.org/{one.name}",
                        filename=one.name,
                        storage_url=url,
                    )
                )
        with runtime.sessions.begin() as session:
            ids[one.name] = max(row.id for row in session.query(ImageRow).filter_by(crawl_job_id=crawl_job_id))
    return ids


def _facts(body: bytes, *, measured: bool) -> tuple[ImageFacts, Metrics | None]:
    try:
        if measured:
            return measure_bytes(body, Limits(), strict=False)
        return inspect_bytes(body, Limits()), None
    except RejectedError:
        return make_facts("broken", sha256=hashlib.sha256(body).digest()), None

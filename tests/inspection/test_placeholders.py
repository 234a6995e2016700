from pathlib import Path

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain import placeholders as domain
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection import placeholders
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits


@pytest.mark.parametrize(
    "url",
    [
        "https://s.yimg.com/pw/images/en-us/photo_unavailable.png",
        "https://s.yimg.com/pw/images/en-us/photo_unavailable_l.png",
        "http://l.yimg.com/g/images/photo_unavailable.gif",
        "https://live.staticflickr.com/pw/images/photo_unavailable_l.png",
        "http://i.imgur.com/removed.png",
        "https://assets.tumblr.com/images/media_violation/community_guidelines_v1_1280.png",
        "http://pic.photobucket.com/bwe.png",
        "http://tinypic.com/images/404.gif",
    ],
)
def test_placeholders_of_well_known_hosts_are_known(url: str) -> None:
    with pytest.raises(RejectedError, match="placeholder"):
        placeholders.load().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://live.staticflickr.com/65535/52000000000_0123456789_b.jpg",
        "https://i.imgur.com/aBcDeFg.png",
        "https://64.media.tumblr.com/0123/s1280x1920/removed.png",
        "https://example.com/photo_unavailable.png",
    ],
)
def test_images_of_them_and_of_other_hosts_are_not(url: str) -> None:
    placeholders.load().check_url(url)


def test_the_list_of_the_package_has_only_hashes_that_can_be_checked() -> None:
    known = placeholders.load()
    assert (known.digests, known.hashes) == (frozenset(), {})


def test_a_list_of_the_user_is_added_to_the_one_of_the_package(tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_bytes(b"\xef\xbb\xbf# mine\r\nurl:img.example.org/gone.png\r\n")

    known = placeholders.load(more)

    for url in ("https://img.example.org/gone.png", "https://i.imgur.com/removed.png"):
        with pytest.raises(RejectedError):
            known.check_url(url)


def test_a_broken_line_is_named_with_file_and_number(tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("# mine\nphash:xyz\n")

    with pytest.raises(PermanentError, match=r"more\.txt, line 2: a perceptual hash has 16 hex digits"):
        placeholders.load(more)


@pytest.mark.parametrize("content", [None, b"\xff\xfeurl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    more = tmp_path / "more.txt"
    if content is not None:
        more.write_bytes(content)

    with pytest.raises(PermanentError, match=r"more\.txt cannot be read"):
        placeholders.load(more)


@pytest.mark.parametrize("gray", [0, 1, 37, 128, 200, 254, 255])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_images_of_one_color_are_never_placeholders_by_their_perceptual_hash(gray: int, format_: str) -> None:
    facts = inspect_bytes(samples.encoded(Image.new("RGB", (300, 200), (gray, gray, gray)), format_), Limits())
    # Whatever the hash of such an image is: if a list may have it, no image of one color is rejected for it.
    try:
        known = domain.parse([f"phash:{facts.phash:016x}/8"], "list")
    except PermanentError:
        return
    known.check_image(facts)


def test_a_picture_is_one_by_its_perceptual_hash_in_another_file_format() -> None:
    facts = inspect_bytes(samples.variant("png"), Limits())
    known = domain.parse([f"phash:{facts.phash:016x}/4"], "list")

    with pytest.raises(RejectedError, match="looks like a placeholder"):
        known.check_image(inspect_bytes(samples.variant("webp"), Limits()))
    known.check_image(inspect_bytes(samples.encoded(samples.scene(seed=9), "PNG"), Limits()))

import pytest
from factories import make_facts

from pixcrawler_worker.domain import placeholders
from pixcrawler_worker.domain.placeholders import Placeholders
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError

DIGEST = bytes(range(32))
PHASH = 0xF0E1_D2C3_B4A5_9687


def parsed(*lines: str) -> Placeholders:
    return placeholders.parse(lines, "list.txt")


def matches_url(known: Placeholders, url: str) -> bool:
    try:
        known.check_url(url)
    except RejectedError as rejected:
        return rejected.reason is Reason.PLACEHOLDER
    return False


def matches_image(known: Placeholders, *, digest: bytes = bytes(32), phash: int = 0, dhash: int = 1) -> bool:
    try:
        known.check_image(make_facts("image", sha256=digest, phash=phash, dhash=dhash))
    except RejectedError as rejected:
        return rejected.reason is Reason.PLACEHOLDER
    return False


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("i.example.com/removed.png", "https://i.example.com/removed.png"),
        ("i.example.com/removed.png", "http://I.EXAMPLE.com:8080/Removed.PNG?cache=1#top"),
        ("https://i.example.com/removed.png", "http://i.example.com/removed.png"),
        ("//i.example.com/removed.png", "https://user:word@i.example.com/removed.png"),
        ("*.example.com/*/gone*", "https://s.example.com/pw/images/en-us/gone_l.png"),
        ("i.example.com:8080/gone.png", "http://i.example.com:8080/gone.png"),
        ("*/removed.png", "http://[2606:4700::1111]/removed.png"),
        ("example.com/show?id=missing*", "https://example.com/show?id=missing&w=9"),
        ("example.com/gone(1)+.png", "https://example.com/gone(1)+.png"),
    ],
)
def test_a_url_that_matches_a_pattern_is_a_placeholder(pattern: str, url: str) -> None:
    assert matches_url(parsed(f"url:{pattern}"), url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("i.example.com/removed.png", "https://i.example.com/photos/removed.png"),
        ("i.example.com/removed.png", "https://i.example.com/removed.png.jpg"),
        ("i.example.com/removed.png", "https://evil.org/?i.example.com/removed.png"),
        ("i.example.com/removed.png", "https://i-example-com/removed.png"),
        ("*.example.com/gone.png", "https://example.com/gone.png"),
        ("i.example.com:8080/gone.png", "http://i.example.com/gone.png"),
        ("example.com/show?id=missing", "https://example.com/show?id=7"),
        ("i.example.com/removed.png", ""),
    ],
)
def test_another_url_is_none(pattern: str, url: str) -> None:
    assert not matches_url(parsed(f"url:{pattern}"), url)


def test_an_image_with_the_digest_of_a_placeholder_is_one() -> None:
    known = parsed(f"sha256:{DIGEST.hex().upper()}")

    assert matches_image(known, digest=DIGEST)
    assert not matches_image(known, digest=bytes(32))


@pytest.mark.parametrize(
    ("distance", "differing", "matches"), [("", 0, True), ("", 1, False), ("/5", 5, True), ("/5", 6, False)]
)
def test_a_perceptual_hash_is_exact_unless_it_has_a_distance(distance: str, differing: int, *, matches: bool) -> None:
    known = parsed(f"phash:{PHASH:016x}{distance}")

    assert matches_image(known, phash=PHASH ^ (1 << differing) - 1) is matches


def test_the_perceptual_hash_of_an_image_of_one_color_is_never_one_of_a_placeholder() -> None:
    assert not matches_image(parsed(f"phash:{PHASH:016x}/8"), phash=PHASH, dhash=0)


def test_comments_blank_lines_spaces_and_line_ends_do_not_matter() -> None:
    known = parsed(
        "# comment", "", "   ", f"  SHA256 : {DIGEST.hex()}  \r", "\turl: i.example.com/gone.png\r", "#url:x.org/abcd"
    )

    assert known.digests == {DIGEST}
    assert [pattern.written for pattern in known.patterns] == ["i.example.com/gone.png"]


def test_two_lists_are_one_with_the_larger_distance_of_a_hash_in_both() -> None:
    known = parsed(f"phash:{PHASH:016x}/3", f"phash:{PHASH:016x}", "url:a.org/gone.png") | parsed(
        f"phash:{PHASH:016x}/1", f"sha256:{DIGEST.hex()}", "url:b.org/gone.png"
    )

    assert known.hashes == {PHASH: 3}
    assert known.digests == {DIGEST}
    assert len(known.patterns) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("i.example.com/removed.png", "expected `sha256:"),
        (":", "expected `sha256:"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "expected `sha256:"),
        ("sha256:abc", "a SHA-256 has 64 hex digits"),
        (f"sha256:{'g' * 64}", "a SHA-256 has 64 hex digits"),
        (f"sha256:{DIGEST.hex()} # comment", "a SHA-256 has 64 hex digits"),
        ("phash:123", "a perceptual hash has 16 hex digits"),
        (f"phash:{PHASH:016x}/", "a perceptual hash has 16 hex digits"),
        (f"phash:{PHASH:016x}/9", "a distance is 0 to 8"),
        ("phash:8000000000000000", "of an image of one color"),
        ("phash:0000000000000000", "of an image of one color"),
        ("phash:ffffffffffffffff/1", "of an image of one color"),
        ("url:", "a pattern of URLs is a host with a path"),
        ("url:example.com", "a pattern of URLs is a host with a path"),
        ("url:/removed.png", "a pattern of URLs is a host with a path"),
        ("url:*/*", "needs 4 letters or digits"),
        ("url:example.com/*.a*", "needs 4 letters or digits"),
    ],
)
def test_a_broken_line_is_named_with_its_list_and_number(line: str, message: str) -> None:
    with pytest.raises(PermanentError) as error:
        parsed("# one", line)

    assert str(error.value).startswith("list.txt, line 2: ")
    assert message in str(error.value)

import pytest

from pixcrawler_worker.storage.failures import FileMissingError
from pixcrawler_worker.storage.keys import MAX_KEY_BYTES, MAX_PART_BYTES, is_key, key_parts, prefix_parts


@pytest.mark.parametrize("key", ["a", "a/b.jpg", ".a", "...", "é/ü.jpg", "a b", "k" * MAX_PART_BYTES, "é" * 127])
def test_a_key_has_parts(key: str) -> None:
    assert key_parts(key) == key.split("/")
    assert is_key(key)


def test_a_key_has_at_most_a_thousand_bytes_or_what_the_bucket_leaves() -> None:
    longest = "/".join(["k" * 255] * 4)[:MAX_KEY_BYTES]
    assert key_parts(longest)
    assert not is_key(f"{longest}kk")
    assert not is_key("é/" * 342)
    assert key_parts("k" * 10, max_bytes=10)
    with pytest.raises(FileMissingError, match="too long: 11 bytes of at most 10"):
        key_parts("k" * 11, max_bytes=10)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "empty"),
        ("/a", "empty"),
        ("a/../b", "empty"),
        ("a\\b", "backslash"),
        ("a\x85b", "control"),
        ("\udc80", "surrogate"),
        ("k" * 256, "too long: at most 255"),
        ("é" * 128, "too long: at most 255"),
    ],
)
def test_an_impossible_key_is_rejected_with_the_reason(key: str, why: str) -> None:
    with pytest.raises(FileMissingError, match=why):
        key_parts(key)
    assert not is_key(key)


def test_a_prefix_may_be_empty() -> None:
    assert prefix_parts("") == []
    assert prefix_parts("a/b/") == ["a", "b"]
    for prefix in ("/", "../", "a//"):
        with pytest.raises(FileMissingError):
            prefix_parts(prefix)

import re
from typing import Any

import pytest

from pixcrawler_worker.domain import exclusions
from pixcrawler_worker.errors import PermanentError

DIGEST, OTHER = "ab" * 32, "0c" * 32


def listed(*images: object, **more: object) -> dict[str, object]:
    return {"version": 1, "job": 3, "exclude_images": list(images), **more}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (listed({"id": 1, "sha256": DIGEST.upper()}, {"sha256": OTHER}, {"sha256": DIGEST}), [DIGEST, OTHER]),
        ({"exclude_images": [DIGEST]}, [DIGEST]),
        ([OTHER, {"sha256": DIGEST}, OTHER], [OTHER, DIGEST]),
        (listed(), []),
        ([], []),
    ],
)
def test_each_digest_is_there_once(content: object, expected: list[str]) -> None:
    assert exclusions.digests(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected an array of SHA-256, or an object with one as exclude_images"),
        (None, "expected an array of SHA-256"),
        (DIGEST, "expected an array of SHA-256"),
        (listed(exclude_images={}), "expected an array of SHA-256"),
        (listed(version=2), "this program reads lists of version 1, got version 2: update it"),
        (listed(version=True), "got version True"),
        (listed(version="9" * 500), "got version '999"),
        (listed(version=None), "got version None"),
        (listed({"sha256": DIGEST}, {"id": 4}), "[1]: expected a SHA-256 in 64 hexadecimal digits, got null"),
        (listed(DIGEST[1:]), "[0]: expected"),
        (listed({"sha256": DIGEST + "\n"}), "[0]: expected"),
        (listed({"sha256": ["a"]}), "[0]: expected"),
        ([3], "[0]: expected a SHA-256 in 64 hexadecimal digits, got 3"),
        (
            [f"{number:064x}" for number in range(exclusions.MAX_EXCLUDED + 1)],
            "expected at most 100,000 images, got 100,001",
        ),
    ],
)
def test_what_is_no_list_is_rejected_with_what_is_wrong(content: Any, message: str) -> None:
    with pytest.raises(PermanentError, match=re.escape(message)) as raised:
        exclusions.digests(content)
    assert len(str(raised.value)) < 200

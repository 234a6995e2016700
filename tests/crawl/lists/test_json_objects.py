"""What is said of JSON that has all rows in one object. Its commands were run with jq 1.6."""

import io
import json

import pytest

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.errors import PermanentError

URL = "http://a.example/1.jpg"
LICENSES = [{"url": "http://a.example/by"}] * 8
IMAGES = [{"id": 1, "coco_url": URL}, {"id": 2, "coco_url": URL}]
TRANSPOSED = ". as $all | range(.image_urls | length) as $at | $all | map_values(.[$at]?)"


def message_of(value: object) -> str:
    with pytest.raises(PermanentError) as raised:
        list(reading.read(io.BytesIO(json.dumps(value).encode()), "a.json"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("value", "program"),
    [
        ({"info": {"url": URL}, "annotations": [{"url": URL}]}, ".annotations[]"),
        ({"licenses": LICENSES[:1], "images": IMAGES, "annotations": [{"caption": "a"}] * 9}, ".images[]"),
        ({"a b": [{"url": URL}]}, '.["a b"][]'),
        ({"urls": [URL]}, ".urls[]"),
        ({"image_urls": [URL, URL], "captions": ["a", "b"]}, TRANSPOSED),
        ({"version": 1, "image_urls": [URL, URL], "captions": ["a", "b"]}, TRANSPOSED),
    ],
)
def test_a_command_makes_a_row_for_each_image(value: object, program: str) -> None:
    assert f"(write a row for each image, its URL as a text, as jq -c '{program}' a.json does)" in message_of(value)


@pytest.mark.parametrize("value", [{"a'b": [{"url": URL}]}, {"url": {"0": URL}}, {"data": [[URL, "a"]]}])
def test_no_command_is_better_than_a_wrong_one(value: object) -> None:
    assert "(write a row for each image, its URL as a text)" in message_of(value)


@pytest.mark.parametrize(
    ("value", "program"),
    [
        ({"info": {"url": URL}, "licenses": LICENSES, "images": IMAGES * 20_000}, ".images[]"),
        ({"image_urls": [URL] * 50_000, "captions": ["a"] * 50_000}, TRANSPOSED),
    ],
)
def test_a_long_object_is_described_by_its_beginning(value: object, program: str) -> None:
    assert message_of(value) == (
        "a.json, line 1: expected JSON: a URL or an object, of at most 1,048,576 characters: write one for each image, "
        f"as jq -c '{program}' a.json does"
    )


@pytest.mark.parametrize("value", [{"a" * 2_000_000: 1}, {"url": {"0": URL * 100_000}}, {"a": ["b" * 2_000_000]}])
def test_a_long_object_without_rows_is_rejected(value: object) -> None:
    assert message_of(value).endswith("of at most 1,048,576 characters")

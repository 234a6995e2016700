"""A decode process that was taken over answers whatever it likes: one image is rejected, and the next is fine."""

import asyncio
import hashlib
import json
import math
import random
import struct
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import FORMATS, ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.inspection import framing
from pixcrawler_worker.inspection.conversion import Converted
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
FORGER = (str(Path(__file__).parent / "forger.py"),)
FACTS: dict[str, Any] = {
    "sha256": "",
    "format": "png",
    "width": 3,
    "height": 2,
    "file_size": 70,
    "mode": "RGB",
    "frames": 1,
    "phash": 2**64 - 1,
    "dhash": 0,
}
METRICS: dict[str, Any] = {
    "brightness_p5": 0.1,
    "brightness_p99": 0.9,
    "entropy": 7.5,
    "std": 60.0,
    "sharpness": 0.5,
    "channel_delta": 3,
    "transparent": False,
    "orientation": 1,
    "gps": False,
    "strict_error": None,
}
#: What no field may be. True is a number for Python.
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0.5,
    2**63,
    10**30,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "../../../../x",
    "/etc/passwd",
    "png\0",
    "PNG",
    "\ud800",
    "x" * 5_000,
    [],
    [1],
    {},
    {"a": {"b": 1}},
)
READERS: tuple[Callable[[bytes], object], ...] = (
    lambda response: framing.read_facts(response, LIMITS),
    lambda response: framing.read_metrics(response, LIMITS),
    framing.read_thumbnail,
    lambda response: framing.read_converted(response, "png", LIMITS),
    lambda response: framing.read_crop(response, Crop(width=4, height=4, resized=4)),
    framing.read_ready,
)


def read(response: bytes) -> list[object]:
    """Return what every reader makes of a response: a valid result, or an error that is for it."""
    found: list[object] = []
    for reader in READERS:
        try:
            found.append(reader(response))
        except (framing.DecodeProcessError, RejectedError) as error:
            found.append(error)
    said = [str(error) for error in found if isinstance(error, Exception)]
    assert all(text == safe(text) and len(text) < 2_000 for text in said)
    return found


def is_within_limits(facts: ImageFacts) -> bool:
    """Whether facts can be stored."""
    return (
        facts.format in FORMATS
        and 0 < facts.width <= LIMITS.max_side
        and 0 < facts.height <= LIMITS.max_side
        and facts.width * facts.height <= LIMITS.max_pixels
        and 0 < facts.frames <= LIMITS.max_frames
        and 0 <= facts.phash < 2**64
        and 0 <= facts.dhash < 2**64
        and len(facts.sha256) in {0, 32}
        and len(facts.mode) <= 8
    )


def test_the_response_of_an_honest_process_is_valid() -> None:
    assert is_within_limits(framing.read_facts(json.dumps(FACTS).encode(), LIMITS))
    assert framing.read_metrics(json.dumps(FACTS | {"metrics": METRICS}).encode(), LIMITS)[1] == Metrics(**METRICS)


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", FACTS)
def test_an_odd_fact_is_not_taken(name: str, odd: Any) -> None:
    if (name, odd) in [("sha256", ""), ("phash", 2**63), ("dhash", 2**63)]:
        pytest.skip("it is a value that this field may have")
    with pytest.raises(framing.InvalidResponseError):
        framing.read_facts(json.dumps(FACTS | {name: odd}).encode(), LIMITS)


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", METRICS)
def test_an_odd_measurement_is_not_taken(name: str, odd: object) -> None:
    response = json.dumps(FACTS | {"metrics": METRICS | {name: odd}}).encode()
    try:
        _, metrics = framing.read_metrics(response, LIMITS)
    except framing.InvalidResponseError:
        return
    kept = getattr(metrics, name)
    assert type(kept) is type(METRICS[name]) or (name == "strict_error" and len(kept) <= 1_000), "0.5 is a measurement"


@pytest.mark.parametrize("missing", FACTS)
def test_a_missing_or_another_field_is_not_taken(missing: str) -> None:
    for fields in ({name: FACTS[name] for name in FACTS if name != missing}, FACTS | {missing + "2": 1}):
        with pytest.raises(framing.InvalidResponseError):
            framing.read_facts(json.dumps(fields).encode(), LIMITS)


@pytest.mark.parametrize("reason", ["opted_out", "license_not_wanted", "../x", None, 7, [], {"a": 1}])
def test_a_reason_that_opening_an_image_does_not_have_is_not_taken(reason: object) -> None:
    with pytest.raises(framing.InvalidResponseError):
        framing.read_facts(json.dumps({"rejected": reason, "detail": "x"}).encode(), LIMITS)


def test_the_detail_of_a_rejection_is_one_printable_line() -> None:
    detail = "a\nb\x1b[31m\u202e" + "c" * 10_000
    with pytest.raises(RejectedError) as rejected:
        framing.read_facts(json.dumps({"rejected": "corrupt", "detail": detail}).encode(), LIMITS)
    assert rejected.value.detail.isprintable()
    assert len(rejected.value.detail) <= 1_000


ANY_JSON = st.recursive(
    st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=10,
)
FIELDS = st.sampled_from([*FACTS, "metrics", "rejected", "detail", "failed", "sandbox", "format"])


def random_response(chance: random.Random) -> bytes:
    """Return a response that is nearly one, or bytes."""
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(200))
        case 1:
            return b"[" * chance.randrange(60_000)
        case 2:
            response = bytearray(json.dumps(FACTS | {"metrics": METRICS}).encode())
            for _ in range(chance.randint(1, 4)):
                response[chance.randrange(len(response))] = chance.randrange(256)
            return bytes(response)
        case 3:
            line = json.dumps({"format": chance.choice(ODD), "width": chance.choice(ODD), "height": 1})
            return line.encode("utf-8", "surrogatepass") + b"\n" + chance.randbytes(9)
        case 4:
            return json.dumps({chance.choice(["rejected", "failed", "detail"]): chance.choice(ODD)}).encode()
        case _:
            changed = {chance.choice([*FACTS, "more"]): chance.choice(ODD) for _ in range(chance.randint(1, 3))}
            return json.dumps(FACTS | changed).encode()


def test_ten_thousand_forged_responses_raise_nothing_else() -> None:
    chance = random.Random(17)
    for _ in range(10_000):
        for found in read(random_response(chance)):
            facts = found[0] if isinstance(found, tuple) else found
            assert not isinstance(facts, ImageFacts) or is_within_limits(facts)
            assert not isinstance(found, Converted) or found.format == "png"


@settings(max_examples=100)
@given(
    st.one_of(st.binary(max_size=300), st.dictionaries(FIELDS, ANY_JSON).map(lambda value: json.dumps(value).encode()))
)
def test_random_responses_raise_nothing_else(response: bytes) -> None:
    read(response)


def framed(response: bytes) -> bytes:
    """Return a response as it is sent."""
    return struct.pack(">Q", len(response)) + response


async def outcome(decoder: Decoder, written: bytes) -> object:
    """Return what becomes of an image to which these bytes are the answer."""
    try:
        return await decoder.inspect(written)
    except RejectedError as rejected:
        return rejected.reason


def honest() -> bytes:
    """Return an answer that is right: the length that it states is its own."""
    answer = b""
    for size in range(100, 400):
        answer = framed(json.dumps(FACTS | {"file_size": size}).encode())
        if len(answer) == size:
            break
    return answer


HOSTILE: dict[str, bytes] = {
    "another format": framed(json.dumps(FACTS | {"format": "../../../../x"}).encode()),
    "the length of another file": framed(json.dumps(FACTS | {"file_size": 1}).encode()),
    "no JSON": framed(b"\x80\x04pickle"),
    "nothing": framed(b""),
    "deeper than Python goes": framed(b"[" * 60_000),
    "a list": framed(b"[]"),
    "a bug": framed(json.dumps({"failed": "Traceback\n\x1b[31mTypeError: x"}).encode()),
    "a reason of others": framed(b'{"rejected": "opted_out", "detail": ""}'),
    "a length without end": struct.pack(">Q", 2**63),
    "more than there may be": framed(bytes(70_000)),
    "leaving without an answer": struct.pack(">Q", 2**64 - 1),
    "a length that is none": b"\xff" * 7,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_answer_costs_its_image_and_the_process(name: str) -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=2), FORGER)) as decoder:
            assert isinstance(await outcome(decoder, honest()), ImageFacts)
            first = decoder.pid
            # The neighbors are sent at the same time, before and after it.
            before, forged, *after = await asyncio.gather(
                outcome(decoder, honest()),
                outcome(decoder, HOSTILE[name]),
                *(outcome(decoder, honest()) for _ in range(5)),
            )
            assert forged in {Reason.DECODER_DIED, Reason.TIMEOUT}
            assert all(isinstance(facts, ImageFacts) for facts in (before, *after))
            assert decoder.pid != first

    asyncio.run(story())


def test_the_digest_is_that_of_the_bytes_whatever_the_process_says() -> None:
    async def story() -> ImageFacts:
        async with aclosing(Decoder(LIMITS, FORGER)) as decoder:
            return await decoder.inspect(honest())

    assert asyncio.run(story()).sha256 == hashlib.sha256(honest()).digest()

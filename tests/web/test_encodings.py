import gzip
import random
import time
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web import encodings

URL = "http://images.example/1.jpg"


def named(*values: str) -> CIMultiDict[str]:
    return CIMultiDict([("Content-Encoding", value) for value in values])


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "X-GZip", " gzip ", "gzip, UTF-8"]))
def test_gzip_is_decoded_and_the_cap_holds_for_the_result(body: bytes, encoding: str) -> None:
    sent = gzip.compress(body)
    assert encodings.decode(sent, named(encoding), URL, max_bytes=len(body)) == body
    if body:
        with pytest.raises(RejectedError) as caught:
            encodings.decode(sent, named(encoding), URL, max_bytes=len(body) - 1)
        assert caught.value.reason is Reason.TOO_MANY_BYTES


def test_a_body_that_becomes_a_hundred_times_larger_is_rejected_from_a_megabyte_on() -> None:
    assert len(encodings.decode(gzip.compress(bytes(1 << 20)), named("gzip"), URL, max_bytes=1 << 30)) == 1 << 20
    with pytest.raises(RejectedError, match="too_many_bytes"):
        encodings.decode(gzip.compress(bytes((1 << 20) + 1)), named("gzip"), URL, max_bytes=1 << 30)


@given(st.binary(max_size=200), st.sampled_from(["", "identity", "UTF-8", "none", "binary", "aws-chunked", "\u00e9"]))
def test_what_is_no_encoding_changes_nothing(body: bytes, encoding: str) -> None:
    encodings.check(named(encoding), URL)
    assert encodings.decode(body, named(encoding), URL, max_bytes=1) == body


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_body_is_decoded_returned_or_rejected(body: bytes, encoding: str) -> None:
    with suppress(RejectedError):
        assert isinstance(encodings.decode(body, named(encoding), URL, max_bytes=1000), bytes)


def test_deflate_is_the_format_of_zlib() -> None:
    assert encodings.decode(zlib.compress(b"image"), named("deflate"), URL, max_bytes=10) == b"image"


def test_a_gzip_of_several_members_is_decoded_whole_and_what_follows_it_is_left_out() -> None:
    members = gzip.compress(b"an ") + gzip.compress(b"") + gzip.compress(b"image")
    for rest in (b"", b"\0" * 100, b"HTTP/1.1 200 OK"):
        assert encodings.decode(members + rest, named("gzip"), URL, max_bytes=100) == b"an image"
    with pytest.raises(RejectedError, match="too_many_bytes"):
        encodings.decode(members, named("gzip"), URL, max_bytes=7)
    with pytest.raises(RejectedError, match="truncated"):
        encodings.decode(members[:-4], named("gzip"), URL, max_bytes=100)


def test_a_gzip_of_as_many_members_as_servers_send_is_decoded_whole_and_one_of_more_is_rejected() -> None:
    # Some compress each 64 kB for themselves.
    image = random.Random(1).randbytes(40 * 65_536)
    members = b"".join(gzip.compress(image[at : at + 65_536]) for at in range(0, len(image), 65_536))
    assert encodings.decode(members, named("gzip"), URL, max_bytes=len(image)) == image
    with pytest.raises(RejectedError, match="bad_response"):
        encodings.decode(gzip.compress(b"") * 200_000, named("gzip"), URL, max_bytes=len(image))


def test_a_body_of_many_members_takes_not_many_times_as_long_as_one_of_a_single_member() -> None:
    """It is decoded in the event loop: all downloads of the process wait meanwhile."""
    one = gzip.compress(random.Random(1).randbytes(8 << 20), 1)
    empty = gzip.compress(b"")

    def seconds(body: bytes) -> float:
        begun = time.process_time()
        with suppress(RejectedError):
            encodings.decode(body, named("gzip"), URL, max_bytes=16 << 20)
        return time.process_time() - begun

    many = empty * (len(one) // len(empty))
    assert min(seconds(many) for _ in range(3)) < 8 * min(seconds(one) for _ in range(3))


@pytest.mark.parametrize("text", [b"a" * 3000, random.Random(1).randbytes(3000)])
def test_of_a_body_whose_beginning_is_enough_the_beginning_is_decoded(text: bytes) -> None:
    sent = gzip.compress(text)
    decoded = encodings.decode(sent[:1000], named("gzip"), URL, max_bytes=1000, cut=True)
    assert text.startswith(decoded)
    assert 900 < len(decoded) <= 1000
    with pytest.raises(RejectedError, match="truncated"):
        encodings.decode(sent[:-9], named("gzip"), URL, max_bytes=4000, cut=True)


def test_bare_deflate_is_decoded_and_an_image_that_is_none_is_left_as_it_is() -> None:
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = bare.compress(b"image" * 100) + bare.flush()
    assert encodings.decode(body, named("deflate"), URL, max_bytes=1000) == b"image" * 100
    for start in (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"BM",
        b"II*\0",
        b"MM\0*",
    ):
        image = start + bytes(range(256))
        assert encodings.decode(image, named("deflate"), URL, max_bytes=1000) == image


@pytest.mark.parametrize("values", [("br",), ("zstd",), ("gzip, gzip",), ("gzip", "gzip"), ("UTF-8, br",)])
def test_what_cannot_be_decoded_is_named(values: tuple[str, ...]) -> None:
    with pytest.raises(RejectedError, match=r"encoded with (br|zstd|gzip, gzip)"):
        encodings.check(named(*values), URL)

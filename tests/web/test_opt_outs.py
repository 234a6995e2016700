import asyncio
import time
from collections.abc import Iterator

import pytest
from downloads import policy
from fakes import hosts
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web import opt_outs
from pixcrawler_worker.web.downloader import Downloader, Fetched

JPEG = hosts.jpeg("opt-out")


def reason(*fields: tuple[str, str]) -> Reason | None:
    """Return why a response with these headers is rejected."""
    try:
        opt_outs.check(CIMultiDict(fields), "https://x/", agent="pixcrawler")
    except RejectedError as error:
        return error.reason
    return None


def tagged(*values: str) -> Reason | None:
    return reason(*(("X-Robots-Tag", value) for value in values))


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        " {} ",
        "nofollow, {}",
        "nofollow,{},noarchive",
        "nofollow {}",
        "nofollow; {}",
        '"{}"',
        "pixcrawler: {}",
        "PixCrawler: nofollow, {}",
        "PIXCRAWLER:{}",
        "pixcrawler : {}",
        "pixcrawler/1.0: {}",
        "*: {}",
        "robots: {}",
        ": {}",
        "{}, otherbot: noarchive",
        "otherbot: noarchive, pixcrawler: {}",
        "otherbot: nofollow, *: {}",
        "max-snippet:-1, {}",
        "max-snippet: -1 {}",
        "max-image-preview: none, max-video-preview: 0, {}",
        "pixcrawler: max-snippet: 20, {}",
        "unavailable_after: 25 Jun 2030 15:00:00 PST, {}",
        "unavailable_after: Wednesday, 25-Jun-30 15:00:00 UTC, {}",
        "unavailable_after: Sat, 25 Jun 2030 15:00:00 GMT, {}",
        "unavailable_after: 2030-06-25T15:00:00+00:00, {}",
        "unavailable_after: 2030-06-25, 15:00:00, {}",
        "\xe9\udcff, {}",
        ", ,:,;{}",
    ],
)
def test_a_directive_is_found_in_any_form(value: str) -> None:
    for directive in ("noai", "noimageai", "noindex", "noimageindex", "noml", "none", "NoAI", "NOINDEX"):
        assert tagged(value.format(directive)) is Reason.OPTED_OUT


@pytest.mark.parametrize(
    "value",
    [
        "",
        "all",
        "index, follow",
        "nofollow, noarchive, nosnippet, notranslate, noodp, indexifembedded",
        "otherbot: noindex",
        "otherbot: noindex, noai",
        "googlebot: noai, otherbot: noindex, nofollow",
        "pixcrawlerbot: noai",
        "pix: noai",
        "max-image-preview: none",
        "max-image-preview:none",
        "max-snippet:-1, max-image-preview:large, max-video-preview:-1",
        "unavailable_after: 25 Jun 2010 15:00:00 PST",
        "noindexing, noaim, nonetheless",
        "no index",
        ":::",
        "\x00\xff\udc80",
    ],
)
def test_what_is_no_opt_out_for_this_crawler_is_passed_over(value: str) -> None:
    assert tagged(value) is None


def test_each_of_several_headers_counts_and_one_does_not_address_the_next() -> None:
    assert tagged("all", "otherbot: nofollow", "noai") is Reason.OPTED_OUT
    assert tagged("pixcrawler: nofollow", "otherbot: noai") is None
    assert reason(("x-robots-tag", "noai")) is Reason.OPTED_OUT


@pytest.mark.parametrize(
    ("values", "reserved"),
    [
        (["1"], True),
        ([" 1 "], True),
        (['"1"'], True),
        (["1;"], True),
        (["0", "1"], True),
        (["0, 1"], True),
        (["0"], False),
        ([""], False),
        (["10"], False),
        (["-1"], False),
        (["yes"], False),
        (["https://x/1"], False),
    ],
)
def test_a_reservation_of_text_and_data_mining_is_a_reason_of_its_own(values: list[str], *, reserved: bool) -> None:
    found = reason(*(("tdm-reservation", value) for value in values))
    assert found is (Reason.TDM_RESERVED if reserved else None)
    assert reason(("TDM-Policy", "https://x/policy.json")) is None


@given(
    values=st.lists(
        st.text(max_size=60)
        | st.lists(
            st.sampled_from(
                ["noai", "none", "bot", "pixcrawler", "*", ":", ",", " ", "max-snippet", "15:00", "\udcff"]
            ),
            max_size=12,
        ).map("".join)
    )
)
@example(values=["a:" * 30_000 + "noai", "noai," * 10_000])
def test_no_value_raises(values: list[str]) -> None:
    assert tagged(*values) in {None, Reason.OPTED_OUT}
    assert reason(*(("TDM-Reservation", value) for value in values)) in {None, Reason.TDM_RESERVED}


# On the way of a download


def response(*lines: str, status: str = "200 OK", body: bytes = JPEG) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


RESPONSES = {
    "/noai": response("X-Robots-Tag: noai"),
    "/leniently": response("no colon", "X-Robots-Tag: noai"),
    "/reserved": response("tdm-reservation: 1"),
    "/not-reserved": response("tdm-reservation: 0", "X-Robots-Tag: otherbot: noai"),
    "/missing": response("X-Robots-Tag: noindex", status="404 Not Found"),
    "/moved": response("X-Robots-Tag: noindex", "Location: /good/moved.jpg", status="302 Found"),
    "/to-noai": response("Location: /noai", status="301 Moved"),
    "/large": response("X-Robots-Tag: noai", body=bytes(3_000_000)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[hosts.HostileServer]:
    with hosts.serving(responses=RESPONSES) as server:
        yield server


def fetch(url: str, *, respect_opt_outs: bool = True) -> Fetched:
    async def run() -> Fetched:
        downloader = Downloader(policy(max_bytes=1_000_000))
        try:
            return await downloader.fetch(url, respect_opt_outs=respect_opt_outs)
        finally:
            await downloader.aclose()

    return asyncio.run(run())


def rejection(url: str) -> Reason:
    with pytest.raises(RejectedError) as caught:
        fetch(url)
    return caught.value.reason


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/noai", Reason.OPTED_OUT),
        ("/leniently", Reason.OPTED_OUT),
        ("/reserved", Reason.TDM_RESERVED),
        ("/moved", Reason.OPTED_OUT),
        ("/to-noai", Reason.OPTED_OUT),
        ("/large", Reason.OPTED_OUT),
        ("/missing", Reason.NOT_FOUND),
    ],
)
def test_an_opt_out_rejects_a_response_and_a_redirect(server: hosts.HostileServer, path: str, expected: Reason) -> None:
    assert rejection(server.url(path)) is expected


def test_where_an_opted_out_redirect_leads_is_not_requested(server: hosts.HostileServer) -> None:
    rejection(server.url("/moved"))
    assert not server.hits["/good/moved.jpg"]


@pytest.mark.parametrize("path", ["/not-reserved", "/good/1.jpg"])
def test_an_image_without_an_opt_out_arrives(server: hosts.HostileServer, path: str) -> None:
    assert fetch(server.url(path)).status == 200


@pytest.mark.parametrize("path", ["/noai", "/leniently", "/reserved"])
def test_opt_outs_are_passed_over_on_request(server: hosts.HostileServer, path: str) -> None:
    assert fetch(server.url(path), respect_opt_outs=False).body == JPEG


def test_the_body_is_not_waited_for() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response("X-Robots-Tag: noai")[: -len(JPEG)])
        await reader.read()

    async def run() -> None:
        downloader = Downloader(policy())
        async with hosts.listening(converse) as port:
            try:
                await downloader.fetch(f"http://127.0.0.1:{port}/", respect_opt_outs=True)
            finally:
                await downloader.aclose()

    begun = time.monotonic()
    with pytest.raises(RejectedError, match="opted_out"):
        asyncio.run(run())
    assert time.monotonic() - begun < 10

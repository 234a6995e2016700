"""What the owners of sites want: candidates that they opt out of, or that their robots.txt disallows, are counted."""

from collections.abc import Iterator
from typing import Any

import pytest
from doubles import counted, drive, image_urls, start, stub_source, urls_of, with_sources
from fakes import hosts
from fakes.hosts import HostileServer

from pixcrawler_worker.db import crawl_history
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("sound")

JPEG = hosts.jpeg("owned")


def response(body: bytes, *lines: str) -> bytes:
    head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


RESPONSES = {
    "/robots.txt": response(b"User-agent: PixCrawler\nDisallow: /private/\n"),
    "/noai.jpg": response(hosts.jpeg("noai"), "X-Robots-Tag: noai, noimageai"),
    "/reserved.jpg": response(hosts.jpeg("reserved"), "tdm-reservation: 1"),
    "/private/1.jpg": response(hosts.jpeg("private")),
}


@pytest.fixture
def owned() -> Iterator[HostileServer]:
    with hosts.serving(responses=RESPONSES) as server:
        yield server


def reasons(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    with runtime.sessions.begin() as session:
        return crawl_history.reasons(session, ref.id)


@pytest.mark.parametrize("source", ["urls", "stub"])
def test_what_owners_do_not_want_is_rejected_by_default(runtime: Runtime, owned: HostileServer, source: str) -> None:
    good = image_urls(owned, f"owned-{source}", 12)
    listed = [*good, *(owned.url(path) for path in ("/noai.jpg", "/reserved.jpg", "/private/1.jpg"))]
    if source == "stub":
        runtime = with_sources(runtime, stub=stub_source(*listed))
        ref, messages = start(runtime, sources=["stub"], job={"max_images": 15})
    else:
        ref, messages = start(runtime, listed)
    drive(runtime, messages)
    assert urls_of(runtime, ref) == set(good)
    assert reasons(runtime, ref) == {"opted_out": 1, "tdm_reserved": 1, "robots_disallowed": 1}
    assert counted(runtime, ref) == (15, 12, 12)
    assert owned.hits["/robots.txt"] == 1
    assert not owned.hits["/private/1.jpg"]


@pytest.mark.parametrize(
    ("option", "rejected"),
    [
        ("respect_opt_outs", {"robots_disallowed": 1}),
        ("respect_robots", {"opted_out": 1, "tdm_reserved": 1}),
    ],
)
def test_each_is_an_option(runtime: Runtime, owned: HostileServer, option: str, rejected: dict[str, int]) -> None:
    listed = [owned.url(path) for path in ("/noai.jpg", "/reserved.jpg", "/private/1.jpg")]
    switched: dict[str, Any] = {option: False}
    ref, messages = start(runtime, listed, **switched)
    drive(runtime, messages)
    assert reasons(runtime, ref) == rejected
    assert counted(runtime, ref) == (3, 3 - sum(rejected.values()), 3 - sum(rejected.values()))
    assert bool(owned.hits["/robots.txt"]) is (option != "respect_robots")


class BusyAtFirst(dict[str, bytes]):
    """Responses of a host whose first one asks to wait."""

    served = False

    def __getitem__(self, path: str) -> bytes:
        if self.served:
            return super().__getitem__(path)
        self.served = True
        return b"HTTP/1.1 503 Unavailable\r\nRetry-After: 0.3\r\nContent-Length: 0\r\n\r\n"


def test_a_host_that_is_busy_when_it_is_asked_loses_no_image(runtime: Runtime) -> None:
    with hosts.serving(responses=BusyAtFirst(RESPONSES)) as server:
        good = image_urls(server, "busy", 10)
        ref, messages = start(runtime, [*good, server.url("/private/1.jpg")])
        drive(runtime, messages)
        assert urls_of(runtime, ref) == set(good)
        assert reasons(runtime, ref) == {"robots_disallowed": 1}
        assert server.hits["/robots.txt"] == 2


def test_a_host_whose_robots_txt_cannot_be_read_is_not_requested(runtime: Runtime) -> None:
    failing = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    with hosts.serving(responses={"/robots.txt": failing}) as server:
        ref, messages = start(runtime, image_urls(server, "unreadable", 10))
        drive(runtime, messages)
        assert reasons(runtime, ref) == {"robots_unreachable": 10}
        assert server.hits == {"/robots.txt": 3}

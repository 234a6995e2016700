"""Jobs with a limited rate, and jobs that wait between two requests to a host."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import ledger
import pytest
from aiohttp import web
from doubles import drive, query, start, stub_source, with_sources
from fakes import providers
from PIL import Image

from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("sound")

RATE, COUNT = 300_000, 12


def image_of(number: int) -> bytes:
    """Return an image of about 70 kB."""
    file = io.BytesIO()
    Image.frombytes("RGB", (160, 150), os.urandom(160 * 150 * 3)).resize((160 + number, 150)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def server() -> Iterator[tuple[str, list[float]]]:
    images, requested = [image_of(number) for number in range(COUNT)], list[float]()

    def handle(request: web.Request) -> web.Response:
        if request.path == "/robots.txt":
            return web.Response(status=404)
        requested.append(time.monotonic())
        return web.Response(body=images[int(request.path.strip("/"))], content_type="image/png")

    with providers.application(handle) as base:
        yield base, requested


def test_a_job_receives_what_its_rate_allows(runtime: Runtime) -> None:
    with server() as (base, _):
        begun = time.monotonic()
        ref, messages = start(runtime, [f"{base}/{n}" for n in range(COUNT)], limit_rate=RATE)
        drive(runtime, messages)
        seconds = time.monotonic() - begun
    job = ledger.crawl_job(runtime.sessions, ref)
    ((size,),) = query(runtime, "SELECT sum(file_size) FROM images")
    assert job.valid_images == COUNT
    assert size / seconds == pytest.approx(RATE, rel=0.15)


@pytest.mark.parametrize("source", ["urls", "stub"])
def test_a_job_waits_between_the_requests_to_a_host(runtime: Runtime, source: str) -> None:
    with server() as (base, requested):
        urls = [f"{base}/{n}" for n in range(5)]
        searched = stub_source(*urls)
        if source == "urls":
            ref, messages = start(runtime, urls, wait=0.4)
        else:
            runtime = with_sources(runtime, stub=searched)
            ref, messages = start(runtime, job={"max_images": 5}, sources=["stub"], wait=0.4)
        drive(runtime, messages)
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 5
    assert len(requested) == 5
    gaps = [later - earlier for earlier, later in pairwise(requested)]
    assert min(gaps) > 0.35
    assert sum(gaps) == pytest.approx(4 * 0.4, rel=0.3)
    assert source == "urls" or len(searched.searches) == 1

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


#: Measurements of which one has to be as slow as it should be and no slower: a machine that is busy adds to each.
#: None may be faster.
MEASUREMENTS = 3


def test_a_job_receives_what_its_rate_allows(runtime: Runtime) -> None:
    rates: list[float] = []
    while not any(rate > RATE * 0.85 for rate in rates):
        assert len(rates) < MEASUREMENTS, rates
        rates.append(measured_rate(runtime))
        assert rates[-1] < RATE * 1.15


def measured_rate(runtime: Runtime) -> float:
    """Run a job, and return the bytes of images that it receives in a second."""
    with server() as (base, _):
        begun = time.monotonic()
        ref, messages = start(runtime, [f"{base}/{n}" for n in range(COUNT)], limit_rate=RATE)
        drive(runtime, messages)
        seconds = time.monotonic() - begun
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == COUNT
    ((size,),) = query(runtime, f"SELECT sum(file_size) FROM images WHERE crawl_job_id = {ref.id}")
    return float(size) / seconds


@pytest.mark.parametrize("source", ["urls", "stub"])
def test_a_job_waits_between_the_requests_to_a_host(runtime: Runtime, source: str) -> None:
    sums: list[float] = []
    while not any(seconds < 4 * 0.4 * 1.3 for seconds in sums):
        assert len(sums) < MEASUREMENTS, sums
        gaps = measured_gaps(runtime, source)
        assert min(gaps) > 0.35
        sums.append(sum(gaps))
        assert sums[-1] > 4 * 0.4 * 0.7


def measured_gaps(runtime: Runtime, source: str) -> list[float]:
    """Run a job with five images, and return the seconds between the requests."""
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
    assert source == "urls" or len(searched.searches) == 1
    return [later - earlier for earlier, later in pairwise(requested)]

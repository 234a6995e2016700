"""Jobs with a limited rate, and jobs that wait between two requests to a host."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import ledger
import pytest
from aiohttp import web
from doubles import drive, query, start, stub_source, with_sources
from downloads import Turns, policy
from fakes import providers
from PIL import Image

from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Hosts

pytestmark = pytest.mark.usefixtures("sound")

RATE, COUNT = 300_000, 24


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


def test_a_job_receives_what_its_rate_allows(runtime: Runtime, redis_url: str) -> None:
    turns = Turns(redis_url)
    paced = replace(runtime, downloader=Downloader(policy(deadline=timedelta(minutes=1)), hosts=Hosts(None, turns)))
    with server() as (base, _):
        ref, messages = start(paced, [f"{base}/{n}" for n in range(COUNT)], limit_rate=RATE)
        drive(paced, messages)
        seconds = time.monotonic() - turns.begun
    runtime.run(paced.downloader.aclose())
    job = ledger.crawl_job(runtime.sessions, ref)
    ((size,),) = query(runtime, "SELECT sum(file_size) FROM images")
    assert job.valid_images == COUNT
    assert size / (turns.ends - turns.begun) > RATE * 0.85
    assert size / seconds < RATE * 1.15


@pytest.mark.parametrize("source", ["urls", "stub"])
def test_a_job_waits_between_the_requests_to_a_host(runtime: Runtime, source: str) -> None:
    with server() as (base, requested):
        urls = [f"{base}/{n}" for n in range(5)]
        searched = stub_source(*urls)
        begun = time.monotonic()
        if source == "urls":
            ref, messages = start(runtime, urls, wait=0.8)
        else:
            runtime = with_sources(runtime, stub=searched)
            ref, messages = start(runtime, job={"max_images": 5}, sources=["stub"], wait=0.8)
        drive(runtime, messages)
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 5
    assert len(requested) == 5
    # A busy machine makes some requests late, and so some gaps short: none comes before its turn.
    assert [number for number, at in enumerate(requested) if at < begun + number * 0.8 - 0.1] == []
    assert requested[-1] - requested[0] < 4 * 0.8 * 1.3
    assert source == "urls" or len(searched.searches) == 1

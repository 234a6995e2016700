"""Jobs whose images do not depend on how fast hosts are: the first candidates of a page, each by its first URL."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from doubles import counted, drive, image_urls, query, start, urls_of
from fakes.hosts import HostileServer

from pixcrawler_worker.db import crawl_history
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.web.downloader import Downloader, Fetched
from pixcrawler_worker.web.policy import Policy

pytestmark = pytest.mark.usefixtures("sound")


class SlowDownloader(Downloader):
    """A downloader that waits before some URLs."""

    def __init__(self, runtime: Runtime, slow: set[str]) -> None:
        super().__init__(Policy(user_agent="tests", allowed_networks=runtime.settings.allowed_networks))
        self._slow = slow

    async def fetch(self, url: str, **options: Any) -> Fetched:
        if url in self._slow:
            # Longer than a download is waited for before others take its place.
            await asyncio.sleep(1.3)
        return await super().fetch(url, **options)


def test_the_first_candidates_become_images_however_slow_they_are(runtime: Runtime, host: HostileServer) -> None:
    urls = image_urls(host, "in-order", 12)
    # The first URL of a file arrives after another one of it.
    listed = [urls[0], urls[1], urls[1].removesuffix(".jpg"), host.url("/fault/404/in-order"), *urls[2:]]
    there = replace(runtime, downloader=SlowDownloader(runtime, {urls[0], urls[1], urls[3]}))
    ref, messages = start(there, listed, job={"max_images": 5}, reproducible=True)
    try:
        drive(there, messages)
    finally:
        runtime.run(there.downloader.aclose())
    assert urls_of(runtime, ref) == set(urls[:5])
    assert counted(runtime, ref) == (7, 6, 5)
    with runtime.sessions.begin() as session:
        assert crawl_history.reasons(session, ref.id) == {"duplicate_bytes": 1, "not_found": 1}
    assert not any(host.hits[url.removeprefix(host.base)] for url in urls[5:]), "nothing else was requested"


@pytest.mark.parametrize("labels", [(None, "lynx"), ("lynx", None), ("lynx", "puma")])
@pytest.mark.parametrize("slow", [0, 1])
def test_an_image_has_the_label_of_the_first_row_of_its_file(
    runtime: Runtime, host: HostileServer, labels: tuple[str | None, ...], slow: int
) -> None:
    (url,) = image_urls(host, f"label-{labels[0]}-{labels[1]}-{slow}", 1)
    urls = (url, url.removesuffix(".jpg"))
    listed: Any = [{"url": one, "label": label} for one, label in zip(urls, labels, strict=True)]
    there = replace(runtime, downloader=SlowDownloader(runtime, {urls[slow]}))
    ref, messages = start(there, listed, job={"keywords": ["cat"]}, reproducible=True)
    try:
        drive(there, messages)
    finally:
        runtime.run(there.downloader.aclose())
    found = query(
        runtime,
        "SELECT original_url, label FROM images JOIN pixcrawler.image_facts ON image_id = images.id"
        " WHERE images.crawl_job_id = :id",
        id=ref.id,
    )
    assert found == [(url, labels[0] or "cat")]

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from browse.browsing import job_of
from doubles import query

from pixcrawler_worker.browse import thumbnails
from pixcrawler_worker.browse.thumbnails import ThumbnailPage
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage


class _CountingStorage(Storage):
    """A storage that knows how many files are read at a time; one of them meets a bug."""

    reading = most = 0

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0.005)
        self.reading -= 1
        if key.endswith("bug"):
            raise ZeroDivisionError
        return await super().get(key, max_bytes=max_bytes)


def stored(runtime: Runtime, count: int, *, first: int) -> list[tuple[int, str | None]]:
    job = job_of(runtime, count, first=first)
    return [
        (image_id, url)
        for image_id, url in query(runtime, "SELECT id, storage_url FROM images WHERE crawl_job_id = :id", id=job)
    ]


async def made(
    runtime: Runtime, images: list[tuple[int, str | None]], *, few: int | None = None
) -> list[ThumbnailPage]:
    found = []
    async with aclosing(thumbnails.sheets(runtime, images, with_previews=False)) as sheets:
        async for page in sheets:
            found.append(page)
            if len(found) == few:
                break
    return found


def test_several_files_are_read_at_a_time_and_a_bug_is_about_its_image(runtime: Runtime) -> None:
    images = [*stored(runtime, 70, first=1000), (1, runtime.storage.url("bug"))]
    storage = _CountingStorage(runtime.storage.url("x")[:-2])
    pages = runtime.run(made(replace(runtime, storage=storage), images))
    assert [len(page.cells) for page in pages] == [16, 16, 16, 16, 6]
    assert pages[-1].reasons == {1: "internal error: see the log"}
    assert [image_id for page in pages for image_id in page.cells] == [image_id for image_id, _ in images[:-1]]
    assert 2 <= storage.most <= 8
    assert all(page.previews == {} for page in pages)


def test_who_stops_early_leaves_nothing_running(runtime: Runtime) -> None:
    async def stopped() -> set[str]:
        await made(runtime, stored_before, few=1)
        return {str(task.get_coro()) for task in asyncio.all_tasks() - {asyncio.current_task()}}

    stored_before = stored(runtime, 80, first=2000)
    assert [one for one in runtime.run(stopped()) if "_sheet" in one] == []


@pytest.mark.parametrize("count", [1, 16, 17])
def test_sheets_have_16_images_and_the_last_one_the_rest(runtime: Runtime, count: int) -> None:
    images = stored(runtime, count, first=3000 + 100 * count)
    sizes = [len(page.cells) for page in runtime.run(made(runtime, images))]
    assert sum(sizes) == count
    assert max(sizes) <= 16

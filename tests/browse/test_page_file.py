"""Writing a page: whole or not at all, with a reason in place of each thumbnail that cannot be made."""

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import ledger
import pytest
from browse.browsing import HOSTILE, data_of, job_of, sheets_of, written
from doubles import query
from export.exporting import StoredImage, crawl_of, image_bytes
from PIL import Image

from pixcrawler_worker.browse import content, page_file
from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage


def stored_keys(runtime: Runtime, job: int) -> list[str]:
    urls = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id", id=job)
    return [runtime.storage.key(url) for (url,) in urls]


@pytest.fixture
def in_s3(runtime: Runtime, s3_url: str) -> Iterator[Runtime]:
    yield replace(runtime, storage=Storage(s3_url))
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def test_a_page_has_all_thumbnails_on_sheets_where_its_data_say(runtime: Runtime, tmp_path: Path) -> None:
    job = job_of(runtime, 37)
    shown: list[int] = []
    path = tmp_path / "deep" / "page.html"
    page = page_file.write(runtime, content.read(runtime, job), path, show=shown.append)
    assert (page.path, page.images, page.missing, page.size) == (path, 37, 0, path.stat().st_size)
    assert shown == [16, 32, 37]
    html = path.read_text(encoding="utf-8")
    data, sheets = data_of(html), sheets_of(html)
    assert data["sheet"] == {"side": 160, "columns": 4, "sizes": [16, 16, 5]}
    for one in data["images"]:
        sheet, cell, width, height = one["tile"]
        image = Image.open(BytesIO(base64.b64decode(sheets[sheet])), formats=["JPEG"]).convert("RGB")
        assert (width, height) == (one["width"], one["height"]), "they are smaller than a cell"
        stored = Image.open(BytesIO(image_bytes(int(one["title"].split()[1]), size=(width, height)))).convert("RGB")
        row, column = divmod(cell, 4)
        middle = (column * 160 + width // 2, row * 160 + height // 2)
        assert image.getpixel(middle) == pytest.approx(stored.getpixel((width // 2, height // 2)), abs=40)
    assert set(sheets_of(html, "preview")) == {one["id"] for one in data["images"]}
    assert list(path.parent.iterdir()) == [path], "nothing else is left"


def test_images_that_are_gone_or_unreadable_have_a_reason_instead(runtime: Runtime, tmp_path: Path) -> None:
    job = job_of(runtime, 6, first=100)
    keys = stored_keys(runtime, job)
    runtime.run(runtime.storage.delete(keys[:1]))
    runtime.run(runtime.storage.put(keys[1], b"<html>no image"))
    runtime.run(runtime.storage.put(keys[2], b"x" * (runtime.settings.max_image_bytes + 1)))
    ids = [one for (one,) in query(runtime, "SELECT id FROM images WHERE crawl_job_id = :id ORDER BY id", id=job)]
    change = "UPDATE images SET storage_url = :url WHERE id = :id"
    ledger.execute(runtime.sessions, change, url="s3://elsewhere/x.jpg", id=ids[3])
    ledger.execute(runtime.sessions, change, url=None, id=ids[4])
    page = written(runtime, job, tmp_path / "page.html")
    assert page.missing == 5
    tiles = {one["id"]: one["tile"] for one in data_of(page.path.read_text(encoding="utf-8"))["images"]}
    assert [tiles[one] for one in ids[:5]] == [
        "file missing in the storage",
        "not an image",
        "file too large",
        "file not in the configured storage",
        "no file was stored",
    ]
    assert tiles[ids[5]][:2] == [0, 0]


def test_a_job_without_any_file_has_a_page(runtime: Runtime, tmp_path: Path) -> None:
    job = job_of(runtime, 17, first=200)
    runtime.run(runtime.storage.delete(stored_keys(runtime, job)))
    page = written(runtime, job, tmp_path / "page.html")
    assert (page.images, page.missing) == (17, 17)
    html = page.path.read_text(encoding="utf-8")
    assert sheets_of(html) == {}
    assert html.endswith("</body></html>\n")


def test_images_of_an_object_store_are_shown(in_s3: Runtime, tmp_path: Path) -> None:
    job = job_of(in_s3, 5, first=300)
    in_s3.run(in_s3.storage.delete(stored_keys(in_s3, job)[:1]))
    page = written(in_s3, job, tmp_path / "page.html")
    data = data_of(page.path.read_text(encoding="utf-8"))
    assert max(str(one["tile"])[:12] for one in data["images"]) == "file missing"
    assert page.missing == 1


class _UnavailableStorage(Storage):
    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if key.endswith("unavailable"):
            raise OutageError("the storage does not respond")
        return await super().get(key, max_bytes=max_bytes)


class _InterruptedStorage(_UnavailableStorage):
    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if key.endswith("unavailable"):
            raise KeyboardInterrupt
        return await super().get(key, max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("storage", "raised"), [(_UnavailableStorage, OutageError), (_InterruptedStorage, KeyboardInterrupt)]
)
def test_an_outage_or_an_interruption_leaves_an_earlier_page_and_nothing_else(
    runtime: Runtime, tmp_path: Path, storage: type[Storage], raised: type[BaseException]
) -> None:
    job = job_of(runtime, 40, first=400)
    base = runtime.storage.url("x")[:-2]
    ledger.execute(
        runtime.sessions,
        "UPDATE images SET storage_url = :url WHERE id = (SELECT max(id) FROM images WHERE crawl_job_id = :job)",
        url=f"{base}/unavailable",
        job=job,
    )
    path = tmp_path / "page.html"
    path.write_text("an earlier page")
    with pytest.raises(raised):
        written(replace(runtime, storage=storage(base)), job, path)
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "an earlier page"
    ledger.execute(runtime.sessions, "UPDATE images SET storage_url = NULL WHERE storage_url LIKE '%/unavailable'")
    assert written(runtime, job, path).images == 40, "the next run writes it"


def test_a_path_that_cannot_be_written_is_named(runtime: Runtime, tmp_path: Path) -> None:
    job = job_of(runtime, 1, first=500)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(PermanentError, match=f"{path} cannot be written: (it is|a part of its path is) [^:]*$"):
            written(runtime, job, path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermanentError, match="pipe cannot be written: it is not a file"):
        written(runtime, job, tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert written(runtime, job, tmp_path / "link").path == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text().startswith("<!doctype html>")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_no_text_from_outside_becomes_html(runtime: Runtime, tmp_path: Path) -> None:
    job = crawl_of(runtime, [StoredImage(image_bytes(600), label=HOSTILE)], name=HOSTILE[:90])
    html = written(runtime, job, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "onerror=" not in html.replace('onerror=\\"', "").replace("onerror=&quot;", "").replace("onerror=&#x27;", "")
    assert html.count("<title>") == html.count("</title>") == 1


def test_a_job_with_too_many_images_for_a_file_is_rejected_with_what_to_do(runtime: Runtime, tmp_path: Path) -> None:
    found = content.read(runtime, job_of(runtime, 1, first=700))
    many = replace(found, images=list(found.images) * 50_001)
    with pytest.raises(PermanentError, match=r"at most 50,000 images, and job \d+ has 50,001: look .* --serve"):
        page_file.write(runtime, many, tmp_path / "page.html")

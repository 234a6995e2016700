"""The HTML report on an export."""

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

import ledger
import pytest
from browser import requires_chromium
from doubles import query
from export import exporting
from export.exporting import StoredImage, image_bytes
from reports import accessible, adds_up, fits, harmless, parse

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.runtime import Runtime

SPLITS = {"splits": {"ratios": {"train": 0.7, "val": 0.2, "test": 0.1}}}


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def crawl(runtime: Runtime) -> int:
    labels = ("red panda", "snow leopard", "<script>alert(1)</script>")
    credit = Credit(title='"><b>', author="Ann", license="cc-by-4.0")
    stored = [
        StoredImage(
            image_bytes(number, size=(480, 360)), label=labels[number % 3], credit=credit if number % 2 else Credit()
        )
        for number in range(90)
    ]
    return exporting.crawl_of(runtime, stored)


def report(archive: dict[str, bytes]) -> str:
    return archive["dataset.html"].decode()


def test_it_has_counts_of_the_archive_and_a_contact_sheet(runtime: Runtime) -> None:
    job = crawl(runtime)
    html = report(exporting.made(runtime, exporting.export(runtime, job, SPLITS)))
    assert "<b>90</b>images" in html
    assert "<b>50%</b>with a known license" in html
    assert html.count("data:image/jpeg;base64,") == 45, "every second one: at most sixty, evenly"
    assert "red panda" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    found = parse(html.removeprefix("<!doctype html>"))
    harmless(found)
    accessible(found)
    adds_up(found)
    assert found.tables["Selected images"] == {"in the dataset": 90, "left out": 0, "total": 90}
    assert found.tables["Splits"]["total"] == found.tables["Classes"]["total"] == 90
    # Images link to their files in the archive.
    archive = exporting.made(runtime, exporting.export(runtime, job, SPLITS))
    files = [url for url in found.links if not urlsplit(url).scheme]
    assert len(files) == 45
    assert {unquote(url) for url in files} <= set(archive)


def test_each_of_several_archives_has_a_report_and_there_is_one_on_all(runtime: Runtime) -> None:
    job = crawl(runtime)
    ref = exporting.export(runtime, job, {"archive": {"part_max_images": 40}})
    found = exporting.files(runtime, ref)
    assert "<b>90</b>images" in found["dataset.html"].decode()
    part = exporting.unzipped(found["part-00002-of-00003.zip"])
    assert "<b>10</b>images" in part["dataset-part-00002.html"].decode()


def test_the_options_can_leave_it_out(runtime: Runtime) -> None:
    job = crawl(runtime)
    entries = exporting.made(runtime, exporting.export(runtime, job, {"extras": {"html_report": False}}))
    assert "dataset.html" not in entries


def test_images_that_are_left_out_are_counted_and_not_shown(runtime: Runtime) -> None:
    job = crawl(runtime)
    rows = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id LIMIT 7", id=job)
    keys = [runtime.storage.key(url) for (url,) in rows]
    runtime.run(runtime.storage.delete(keys[:5]))
    runtime.run(runtime.storage.put(keys[5], b"changed"))
    found = parse(report(exporting.made(runtime, exporting.export(runtime, job))).removeprefix("<!doctype html>"))
    adds_up(found)
    assert found.tables["Selected images"] == {"in the dataset": 84, "left out": 6, "total": 90}
    assert found.tables["Left out"]["file missing in the storage"] == 5
    assert "not readable" not in found.text
    assert f"Contact sheet {len(found.loaded)} of 84" in found.text


def test_the_report_on_several_archives_shows_only_what_is_in_them(runtime: Runtime) -> None:
    job = crawl(runtime)
    rows = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id LIMIT 14", id=job)
    keys = [runtime.storage.key(url) for (url,) in rows]
    runtime.run(runtime.storage.delete(keys[:7]))
    for key in keys[7:]:
        runtime.run(runtime.storage.put(key, image_bytes(1000)))
    ref = exporting.export(runtime, job, {"archive": {"part_max_images": 40}})
    found = parse(exporting.files(runtime, ref)["dataset.html"].decode().removeprefix("<!doctype html>"))
    adds_up(found)
    assert found.tables["Selected images"] == {"in the dataset": 76, "left out": 14, "total": 90}
    assert "not readable" not in found.text
    assert 30 < len(found.loaded) < 45, "of every second one"
    assert f"Contact sheet {len(found.loaded)} of 76" in found.text


@pytest.mark.parametrize("layout", ["coco", "flat", "parquet", "yolo"])
def test_in_each_layout_links_lead_to_files(runtime: Runtime, layout: str) -> None:
    job = crawl(runtime)
    archive = exporting.made(runtime, exporting.export(runtime, job, {"layout": layout}))
    found = parse(report(archive).removeprefix("<!doctype html>"))
    harmless(found)
    files = {unquote(url) for url in found.links if not urlsplit(url).scheme}
    assert files <= set(archive)
    assert bool(files) == (layout != "parquet")


def test_in_a_shard_links_lead_from_its_folder_to_files(runtime: Runtime) -> None:
    ref = exporting.export(runtime, crawl(runtime), {"layout": "webdataset"}, format_="tar")
    shard = exporting.untarred(exporting.files(runtime, ref)["train-00000.tar"])
    found = parse(shard["__meta__/dataset-html"].decode().removeprefix("<!doctype html>"))
    files = {unquote(url) for url in found.links if not urlsplit(url).scheme}
    assert files
    assert {posixpath.normpath(f"__meta__/{file}") for file in files} <= set(shard)


@requires_chromium
def test_it_fits_screens(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "dataset.html"
    path.write_bytes(exporting.made(runtime, exporting.export(runtime, crawl(runtime), SPLITS))["dataset.html"])
    fits(path, tmp_path)

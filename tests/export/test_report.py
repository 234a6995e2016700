"""The HTML report on an export."""

import re
from pathlib import Path

import ledger
import pytest
from browser import look, requires_chromium
from export import exporting
from export.exporting import StoredImage, image_bytes

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
    assert not re.search(r'(src|href)="(?!data:)', html), "it has no external references"


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


@requires_chromium
@pytest.mark.parametrize(("name", "width"), [("desktop", 1180), ("phone", 420)])
def test_it_renders_in_a_browser(runtime: Runtime, tmp_path: Path, name: str, width: int) -> None:
    path = tmp_path / "dataset.html"
    path.write_bytes(exporting.made(runtime, exporting.export(runtime, crawl(runtime), SPLITS))["dataset.html"])
    seen = look(path.as_uri(), f"export-{name}", width=width, height=1600)
    assert seen.count("<img") == 45
    assert "Contact sheet" in seen

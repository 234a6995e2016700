"""The page about a job: complete, true, and harmless wherever it is opened."""

import asyncio
import base64
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import ledger
import pytest
from browser import requires_chromium
from doubles import StubSource, WatchedStorage, drive, first, image_urls, make_job, query, start
from export import exporting
from fakes.hosts import HostileServer, serving
from PIL import Image
from reports import accessible, adds_up, fits, harmless, read

from pixcrawler_worker import html_report
from pixcrawler_worker.crawl import report
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain import explanations
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import PermanentError, TransientError, UnknownJobError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page
from pixcrawler_worker.storage.facade import Storage

HOSTILE = '<script>alert("1")</script>"\'&><img src=http://evil.example/x onerror=alert(1)>'


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as server:
        yield server


def crawled(runtime: Runtime, candidates: Callable[[str], list[Candidate]], *labels: str, **job: object) -> JobRef:
    """A job that has run over what each label has."""
    there = replace(
        runtime, sources={"shelf": StubSource(lambda query: Page(tuple(candidates(query.label)), more=False))}
    )
    ref, messages = start(there, sources=["shelf"], job={"keywords": list(labels), "max_images": 500, **job})
    drive(there, messages)
    return ref


def good_images(host: HostileServer, count: int, **credit: str) -> Callable[[str], list[Candidate]]:
    def found(label: str) -> list[Candidate]:
        name = base64.b32encode(label.encode()).decode().strip("=")
        urls = [host.url(f"/good/{name}-{number}.jpg") for number in range(count)]
        return [Candidate(url=url, credit=Credit(**credit)) for url in urls]

    return found


def test_a_report_has_images_and_rejection_reasons(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    def candidates(label: str) -> list[Candidate]:
        good = good_images(host, 3, license="cc0-1.0")(label)
        return [*good, *(Candidate(url=host.url(f"/fault/404/{label}-{number}")) for number in range(2))]

    ref = crawled(runtime, candidates, "cat", "dog", name="Cats & dogs")
    path = report.write_crawl_report(runtime, ref.id, tmp_path / "deep" / "report.html")
    assert path == tmp_path / "deep" / "report.html"
    found = read(path)
    harmless(found)
    for text in ("Cats & dogs", f"crawl job {ref.id}, completed", "6of 500 images", "2labels", "4rejected"):
        assert text in found.text
    for text in ("cat3", "dog3", "jpg6", "up to 0.1 MP6", "cc0-1.06", "image not found (not_found)4"):
        assert text in found.text
    assert "10candidates found" in found.text
    assert len(found.loaded) == 6


def test_every_thumbnail_can_be_opened_and_is_small(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 4), "owl")
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    assert len(found.loaded) == 4
    for url in found.loaded:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))) as image:
            image.load()
            assert image.format == "JPEG"
            assert max(image.size) <= 224


def test_untrusted_texts_are_escaped(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    label = HOSTILE[:60]
    ref = crawled(
        runtime, good_images(host, 2, title=HOSTILE, author=HOSTILE, license=HOSTILE), label, name=HOSTILE[:100]
    )
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    harmless(found)
    assert found.text.count(HOSTILE[:100]) >= 2
    assert all(urlsplit(url).hostname == "127.0.0.1" for url in found.links)
    assert f"{label} 2" in found.text
    assert f"{HOSTILE}2" in found.text
    assert ("alt", HOSTILE) in found.attributes
    assert any(name == "title" and value.startswith(f"{HOSTILE} - {HOSTILE}") for name, value in found.attributes)


def test_a_contact_sheet_shows_a_few_of_many_evenly(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 30), "many")
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    assert len(found.loaded) == 10
    assert "many 10 of 30" in found.text


def test_of_many_labels_those_with_the_most_images_are_on_the_contact_sheet(runtime: Runtime, tmp_path: Path) -> None:
    """A list whose labels are ids has one for every image."""
    labels = [f"id {number:03}" for number in range(120)] + ["many", "many"]
    stored = [exporting.StoredImage(exporting.image_bytes(at), label) for at, label in enumerate(labels)]
    job_id = exporting.crawl_of(runtime, stored)
    found = read(report.write_crawl_report(runtime, job_id, tmp_path / "report.html"))
    assert "Contact sheet 100 of 121 labels" in found.text
    assert len(found.loaded) == 101
    assert "many 2" in found.text
    assert found.tables["Labels"]["total"] == 122


def test_images_with_a_caption_are_counted(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"url": url, "caption": caption} for url, caption in zip(image_urls(host, "captioned", 4), "ab  ", strict=True)
    ]
    for listed, said in ((rows, True), (rows[2:], False)):
        ref, messages = start(runtime, listed)
        drive(runtime, messages)
        found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
        assert ("2with a caption" in found.text) is said
        assert ("with a caption" in found.text) is said


def test_a_missing_or_corrupt_file_is_reported(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 3), "gone")
    rows = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id", id=ref.id)
    missing, broken, _ = (runtime.storage.key(url) for (url,) in rows)
    runtime.run(runtime.storage.delete([missing]))
    runtime.run(runtime.storage.put(broken, b"not an image"))
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    assert len(found.loaded) == 1
    assert found.text.count("96x64 jpg: file missing or not readable") == 2
    assert len(found.links) == 3, "what it was downloaded from"


def test_a_job_without_images_has_a_report(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    empty = crawled(runtime, lambda _: [], "nothing")
    pending = make_job(runtime, name="not yet")
    for ref, status in ((empty, "completed"), (pending, "pending")):
        found = read(report.write_crawl_report(runtime, ref.id, tmp_path / f"{ref.id}.html"))
        harmless(found)
        assert f"crawl job {ref.id}, {status}" in found.text
        assert "No candidates were rejected." in found.text
        assert found.loaded == []


def test_a_missing_job_has_no_report(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(UnknownJobError):
        report.write_crawl_report(runtime, 2**30, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error(runtime: Runtime, tmp_path: Path) -> None:
    ref = make_job(runtime)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(PermanentError, match=f"{path} cannot be written"):
            report.write_crawl_report(runtime, ref.id, path)


def test_an_unavailable_storage_is_one_error_and_leaves_nothing_running(
    runtime: Runtime, host: HostileServer, tmp_path: Path
) -> None:
    ref = crawled(runtime, good_images(host, 12), "trouble")

    def away(_key: str) -> None:
        raise TransientError("the storage is unavailable")

    with pytest.raises(TransientError, match="the storage is unavailable"):
        report.write_crawl_report(
            replace(runtime, storage=WatchedStorage(runtime, get=away)), ref.id, tmp_path / "report.html"
        )
    assert asyncio.all_tasks(runtime.loop) == set()
    assert list(tmp_path.iterdir()) == []


def test_only_a_few_images_are_in_memory_at_a_time(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    """A job with hundreds of labels has thousands of images on its contact sheet."""
    ref = crawled(runtime, good_images(host, 12), *(f"label {number}" for number in range(4)))

    class Counting(Storage):
        held = most = 0

        async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            self.held += 1
            self.most = max(self.most, self.held)
            return await super().get(key, max_bytes=max_bytes)

    counting = Counting(runtime.settings.storage())

    class Opening(Decoder):
        async def thumbnail(self, body: bytes, *, side: int) -> bytes:
            made = await super().thumbnail(body, side=side)
            counting.held -= 1
            return made

    watched = replace(runtime, storage=counting, decoder=Opening(Limits()))
    try:
        found = read(report.write_crawl_report(watched, ref.id, tmp_path / "report.html"))
    finally:
        runtime.run(watched.decoder.aclose())
    assert len(found.loaded) == 48
    assert counting.most <= 16


def test_times_are_in_utc(runtime: Runtime, database_url: str, tmp_path: Path) -> None:
    ref = make_job(runtime, status="completed", progress=100)
    ledger.execute(
        runtime.sessions, "UPDATE crawl_jobs SET completed_at = '2026-02-03 20:05Z' WHERE id = :id", id=ref.id
    )
    engine = session.connect(f"{database_url}&options=-c%20timezone%3DAsia/Tokyo")
    try:
        page = report.write_crawl_report(
            replace(runtime, sessions=session.sessions(engine)), ref.id, tmp_path / "report.html"
        )
    finally:
        engine.dispose()
    assert "completed, 2026-02-03 20:05 UTC" in read(page).text


def test_every_rejection_reason_is_explained(runtime: Runtime, tmp_path: Path) -> None:
    ref, messages = start(runtime, ["https://example.org/a.jpg"])
    held = ledger.claim(runtime.sessions, first(messages).chunk_id)
    counts = {reason.value: 1000 + number for number, reason in enumerate(Reason)}
    with runtime.sessions.begin() as opened:
        chunks.finish(opened, held, result={"reasons": counts}, gains={})
    text = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html")).text
    for reason, count in counts.items():
        assert f"({reason}){count:,}" in text
        assert f"{reason} ({reason})" not in text
        remedy = explanations.explain(reason, job=str(ref.id)).remedy.replace("`", "")
        assert remedy in text or reason in {"duplicate_url", "invalid_entry"}


def test_what_became_of_the_candidates_adds_up(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    """A list with repeated URLs and missing images, and with more URLs than images are requested."""
    good = [host.url(f"/good/sum-{number}.jpg") for number in range(40)]
    gone = [host.url(f"/fault/404/sum-{number}.jpg") for number in range(9)]
    urls = [*gone, *good[:20], *good[:7], *gone[:3], *good[20:]]
    ref, messages = start(runtime, urls, job={"max_images": 25}, chunk_size=20)
    drive(runtime, messages)
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    adds_up(found)
    outcomes, candidates = found.tables["Images and rejections"], found.tables["Candidates"]
    assert outcomes["valid images"] == 25
    assert outcomes["rejected"] == found.tables["Rejected candidates"]["total"] == 9
    assert outcomes["total"] == candidates["distinct URLs that were processed"] == 34
    assert candidates["total"] == len(urls)
    assert f"{outcomes['total']}candidates found" in found.text
    assert all(found.tables[heading]["total"] == 25 for heading in ("Labels", "Formats", "Sizes", "Licenses"))
    # Deleted images and those that a validation found invalid have their lines.
    ledger.execute(
        runtime.sessions,
        "DELETE FROM images WHERE id IN (SELECT id FROM images WHERE crawl_job_id = :id LIMIT 4)",
        id=ref.id,
    )
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET valid_images = 15 WHERE id = :id", id=ref.id)
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    adds_up(found)
    assert list(found.tables["Images and rejections"].values()) == [15, 6, 4, 9, 34]
    assert found.tables["Labels"]["total"] == 21


@pytest.mark.parametrize("max_images", [3, 500])
def test_the_report_on_a_job_that_is_retried_adds_up(
    runtime: Runtime, host: HostileServer, tmp_path: Path, max_images: int
) -> None:
    urls = [*image_urls(host, "again", 5), *(host.url(f"/fault/500/again-{number}") for number in range(4))]
    ref, messages = start(runtime, urls, job={"max_images": max_images})
    for step in ("ended", "retried", "ended again"):
        if step == "retried":
            messages = submission.retry(runtime, CRAWL, ref.id)
        else:
            drive(runtime, messages)
        found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
        adds_up(found)
        assert found.tables["Candidates"]["total"] == len(urls), step


def test_a_long_table_has_a_row_for_the_rest(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 1), *(f"label {number}" for number in range(40)))
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    labels = found.tables["Labels"]
    assert (len(labels), labels["10 more"], labels["total"]) == (32, 10, 40)
    adds_up(found)


def test_an_image_links_to_its_file_its_page_and_its_original(
    runtime: Runtime, host: HostileServer, tmp_path: Path
) -> None:
    pages = (
        "https://pages.example/1?a=1&b=%22",
        "javascript://pages.example/%0aalert(1)",
        "file:///etc/passwd",
        "https:///no-host",
    )

    def candidates(label: str) -> list[Candidate]:
        return [
            Candidate(url=host.url(f"/good/{label}-{number}.jpg"), credit=Credit(page_url=page))
            for number, page in enumerate(pages)
        ]

    ref = crawled(runtime, candidates, "owl")
    rows = query(runtime, "SELECT original_url FROM images WHERE crawl_job_id = :id ORDER BY original_url", id=ref.id)
    originals = [url for (url,) in rows]
    folder = tmp_path / "data set"
    names = dict(zip(originals, ("owl #1/a?b.jpg", "../secret.jpg", "owl #1/gone.jpg"), strict=False))
    (folder / "owl #1").mkdir(parents=True)
    (folder / "owl #1" / "a?b.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "source_url"), *((name, url) for url, name in names.items())])
    path = report.write_crawl_report(runtime, ref.id, folder / "reports" / "crawl.html", dataset=folder)
    found = read(path)
    harmless(found)
    files = [url for url in found.links if not urlsplit(url).scheme]
    assert files == ["../owl%20%231/a%3Fb.jpg"]
    assert (path.parent / unquote(files[0])).is_file()
    assert pages[0] in found.links
    assert sorted(url for url in found.links if url.startswith(host.url("/"))) == originals
    assert len(found.links) == 6
    assert ("title", "owl #1/gone.jpg") in found.attributes, "the name in the dataset"


UNREADABLE = (b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b'file_name,source_url\n"' + b"x" * 200_000)


@pytest.mark.parametrize("content", UNREADABLE, ids=["empty", "other columns", "no text", "a long cell"])
def test_a_table_that_cannot_be_read_leaves_out_the_links_to_files(
    runtime: Runtime, host: HostileServer, tmp_path: Path, content: bytes
) -> None:
    ref = crawled(runtime, good_images(host, 1), "owl")
    (tmp_path / "images.csv").write_bytes(content)
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html", dataset=tmp_path))
    assert [urlsplit(url).scheme for url in found.links] == ["http"]


@requires_chromium
def test_the_report_is_accessible_and_fits_screens(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    long = "W" * 90

    def candidates(label: str) -> list[Candidate]:
        good = good_images(host, 3, title=long, author=long, license=long)(label)
        return [*good, Candidate(url=host.url(f"/fault/404/{label}"))]

    ref = crawled(runtime, candidates, "cat", long, name=long)
    path = report.write_crawl_report(runtime, ref.id, tmp_path / "report.html")
    accessible(read(path))
    fits(path, tmp_path)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (48_848, "48.8 kB"),
        (5_693_140, "5.7 MB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_sizes_have_a_unit_that_fits(count: int, text: str) -> None:
    assert html_report.size(count) == text


def _luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = color.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_have_enough_contrast(theme: int) -> None:
    """At least 4.5 for text, 3 for bars."""
    style = html_report.document("", ())
    colors = [dict(re.findall(r"--(\w+): (#\w+)", found)) for found in re.findall(r":root \{([^}]*)\}", style)][theme]
    for front, back, least in (
        *((text, ground, 4.5) for text in ("ink", "soft", "link") for ground in ("page", "card")),
        ("bar", "page", 3),
        ("bad", "page", 3),
    ):
        darker, lighter = sorted(_luminance(colors[name]) + 0.05 for name in (front, back))
        assert lighter / darker >= least, (front, back)

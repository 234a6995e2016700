"""The page about a job: complete, true, and harmless wherever it is opened."""

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import ledger
import pytest
from doubles import StubSource, WatchedStorage, drive, first, make_job, query, start
from fakes.hosts import HostileServer, serving
from PIL import Image

from pixcrawler_worker.crawl import report
from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import PermanentError, TransientError, UnknownJobError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page
from pixcrawler_worker.storage.facade import Storage

HOSTILE = '<script>alert("1")</script>"\'&><img src=http://evil.example/x onerror=alert(1)>'
#: HTML attributes that load a resource.
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href"}


@dataclass
class Document(HTMLParser):
    """The parts of an HTML document that matter here."""

    tags: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            self.handlers += [name] if name.startswith("on") else []
            self.loaded += [value or ""] if name in LOADING else []

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Document:
    found = Document()
    found.feed(path.read_text(encoding="utf-8"))
    found.close()
    return found


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


def harmless(found: Document) -> None:
    """No scripts run, and nothing is loaded from outside."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(found.tags)
    assert found.handlers == []
    assert all(url.startswith("data:image/jpeg;base64,") for url in found.loaded)


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
    assert f"{label} 2" in found.text
    assert f"{HOSTILE}2" in found.text
    assert ("alt", HOSTILE) in found.attributes
    assert any(name == "title" and value.startswith(f"{HOSTILE} - {HOSTILE}") for name, value in found.attributes)


def test_a_contact_sheet_shows_a_few_of_many_evenly(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 30), "many")
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    assert len(found.loaded) == 10
    assert "many 10 of 30" in found.text


def test_a_missing_or_corrupt_file_is_reported(runtime: Runtime, host: HostileServer, tmp_path: Path) -> None:
    ref = crawled(runtime, good_images(host, 3), "gone")
    rows = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id", id=ref.id)
    missing, broken, _ = (runtime.storage.key(url) for (url,) in rows)
    runtime.run(runtime.storage.delete([missing]))
    runtime.run(runtime.storage.put(broken, b"not an image"))
    found = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html"))
    assert len(found.loaded) == 1
    assert found.text.count("96x64 jpg: file missing or not readable") == 2


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


def test_every_rejection_reason_has_a_description(runtime: Runtime, tmp_path: Path) -> None:
    ref, messages = start(runtime, ["https://example.org/a.jpg"])
    held = ledger.claim(runtime.sessions, first(messages).chunk_id)
    counts = {reason.value: 1000 + number for number, reason in enumerate(Reason)}
    with runtime.sessions.begin() as opened:
        chunks.finish(opened, held, result={"reasons": counts}, gains={})
    text = read(report.write_crawl_report(runtime, ref.id, tmp_path / "report.html")).text
    for reason, count in counts.items():
        assert f" ({reason}){count:,}" in text
        assert f"{reason} ({reason})" not in text

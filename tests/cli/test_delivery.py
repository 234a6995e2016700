"""The last stage of `pixcrawler build`: writing the dataset, interrupted and failing."""

import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import ledger
import pytest
from building import working
from doubles import drive, image_urls, start
from fakes import hosts
from fakes.hosts import HostileServer
from split_names import splits_in, suspicious

from pixcrawler_worker.cli import delivery, job_status
from pixcrawler_worker.cli.delivery import Delivery
from pixcrawler_worker.crawl.lists import plain_text
from pixcrawler_worker.db import candidates, job_views
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.job_views import CrawlView, ValidationView
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage

ZIP = Delivery(ExportFormat.ZIP, {})


@pytest.fixture
def host() -> Iterator[HostileServer]:
    with hosts.serving() as server:
        yield server


@pytest.fixture
def job(runtime: Runtime, host: HostileServer) -> CrawlView:
    """A job that has ended, with twelve images."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    ref, messages = start(runtime, image_urls(host, "build", 12))
    drive(runtime, messages)
    return job_status.require(runtime.sessions, CrawlView, ref.id)


@pytest.fixture
def worked(runtime: Runtime, job: CrawlView) -> Iterator[None]:
    """Run all chunks in a thread, in place of a worker, once the crawl job has ended."""
    assert job.ended, "a sweep would start it without its options"
    with working(runtime):
        yield


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "no folder"])
def test_an_interrupted_download_leaves_no_files(
    runtime: Runtime, job: CrawlView, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, there: bool
) -> None:
    folder = tmp_path / "cats"

    class Interrupting(Storage):
        async def blocks(self, key: str) -> AsyncIterator[bytes]:
            async for block in super().blocks(key):
                yield block
                os.kill(os.getpid(), signal.SIGINT)

    if there:
        folder.mkdir()
    interrupting = replace(runtime, storage=Interrupting(runtime.settings.storage()))
    with pytest.raises(SystemExit) as ended:
        delivery.deliver(interrupting, job, folder, ZIP, resume="pixcrawler build --job 1")
    assert ended.value.code == 130
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())
    assert "no files were written" in capsys.readouterr().err
    # The next call succeeds.
    made = delivery.deliver(runtime, job, folder, ZIP, resume="")
    assert made
    assert made.exported_images == 12
    assert len(list(folder.glob("*/*.jpg"))) == 12
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "ATTRIBUTION.txt",
        "README.md",
        "SHA256SUMS",
        "dataset.html",
        "images.csv",
        "metadata.jsonl",
        "quality.html",
        "report.html",
    }


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize("layout", ["imagefolder", "webdataset"])
def test_what_failed_is_in_the_folder_and_can_be_given_as_a_list(
    runtime: Runtime, job: CrawlView, tmp_path: Path, layout: str
) -> None:
    url = "https://a.example/gone.jpg"
    rejected = Outcome(url_hash=url_hash(url), reason="not_found", url=url, label="cat", http_status=404)
    with runtime.sessions.begin() as session:
        candidates.record(session, job.id, [rejected])
    options = {"layout": layout, "extras": {"failures": True}}
    given = Delivery(protocol.load(layout).default_format(), options)
    assert delivery.deliver(runtime, job, tmp_path / "cats", given, resume="")
    (line,) = (tmp_path / "cats" / "failed.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["url"], row["label"], row["reason"], row["http_status"]) == (url, "cat", "not_found", 404)
    with (tmp_path / "cats" / "failed.jsonl").open("rb") as file:
        assert [one.text for one in plain_text.read(file, "failed.jsonl")] == [url]


@pytest.mark.usefixtures("worked")
def test_what_describes_archives_that_are_unpacked_is_not_left(
    runtime: Runtime, job: CrawlView, tmp_path: Path
) -> None:
    given = Delivery(ExportFormat.ZIP, {"archive": {"part_max_images": 5}})
    assert delivery.deliver(runtime, job, tmp_path / "cats", given, resume="")
    assert len(list(tmp_path.glob("cats/*/*/*.jpg"))) == 12
    names = {path.name for path in (tmp_path / "cats").iterdir() if path.is_file()}
    assert not names & {"manifest.json", "croissant.json"}
    assert not [name for name in names if name.endswith(".zip")]


@pytest.mark.usefixtures("worked")
def test_where_nothing_failed_there_is_no_list(runtime: Runtime, job: CrawlView, tmp_path: Path) -> None:
    given = Delivery(ExportFormat.ZIP, {"extras": {"failures": True}})
    assert delivery.deliver(runtime, job, tmp_path / "cats", given, resume="")
    assert not (tmp_path / "cats" / "failed.jsonl").exists()


def test_a_job_without_images_ends_with_one_line_and_creates_no_other_jobs(
    runtime: Runtime, host: HostileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    ref, messages = start(runtime, [host.url("/fault/404/none.jpg")])
    drive(runtime, messages)
    ended = job_status.require(runtime.sessions, CrawlView, ref.id)
    assert delivery.deliver(runtime, ended, tmp_path / "cats", ZIP, resume="") is None
    assert capsys.readouterr().err == (
        f"job {ref.id} has no images, so there is no dataset: correct the URLs or keywords, or accept more images\n"
    )
    assert not (tmp_path / "cats").exists()
    with runtime.sessions() as session:
        assert job_views.of_crawl(session, ValidationView, ref.id) == []
    # Where sources have failed, neither URLs nor keywords are to be corrected.
    assert delivery.deliver(runtime, replace(ended, failed_chunks=1), tmp_path / "cats", ZIP, resume="") is None
    said = capsys.readouterr().err
    assert "correct" not in said
    assert said.endswith(f"Try them again: pixcrawler build --job {ref.id}\n")


@pytest.mark.usefixtures("worked")
def test_a_corrupt_archive_is_rejected(runtime: Runtime, job: CrawlView, tmp_path: Path) -> None:
    class Damaging(Storage):
        async def blocks(self, key: str) -> AsyncIterator[bytes]:
            async for block in super().blocks(key):
                yield block[:-100] + bytes(100)

    damaging = replace(runtime, storage=Damaging(runtime.settings.storage()))
    with pytest.raises(PermanentError, match=r"is not the file that export \d+ wrote: its SHA-256 differs"):
        delivery.deliver(damaging, job, tmp_path / "cats", ZIP, resume="")
    assert not (tmp_path / "cats").exists()


#: In the gate: one that is unpacked, one archive, and several. All paths in archives have a test of their own.
FEW = {("imagefolder", False), ("table", False), ("webdataset", True)}


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize(
    ("layout", "split"),
    [
        pytest.param(*one, marks=[] if one in FEW else pytest.mark.scale)
        for one in product(protocol.LAYOUTS.installed(), (False, True))
    ],
)
def test_no_file_that_is_left_in_the_folder_looks_like_a_split(
    runtime: Runtime, job: CrawlView, tmp_path: Path, layout: str, *, split: bool
) -> None:
    options = {"layout": layout, "splits": {"ratios": {"train": 0.5, "test": 0.5}} if split else {}}
    folder = tmp_path / "cats"
    assert delivery.deliver(runtime, job, folder, Delivery(protocol.load(layout).default_format(), options), resume="")
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    # The splits that were asked for, or those of readers that need one.
    real = re.compile(r"(^|/|_)(train|val|test)(?=[/-])|_(train|test)(?=\.json$)" if split else r"(^|/)train(?=-)")
    if layout == "yolo":
        real = re.compile(r"^(train|val|test)(?=/)")
    rest = [real.sub("", path) for path in paths]
    assert not [path for path in rest if splits_in(path)]
    assert not suspicious(rest)
    assert {"report.html", "quality.html", "README.md"} <= set(paths)


@pytest.mark.usefixtures("worked")
def test_tar_shards_are_not_unpacked(runtime: Runtime, job: CrawlView, tmp_path: Path) -> None:
    shards = Delivery(ExportFormat.TAR, {"splits": {"ratios": {"train": 0.5, "test": 0.5}}})
    made = delivery.deliver(runtime, job, tmp_path / "cats", shards, resume="")
    assert made
    names = {path.name for path in (tmp_path / "cats").iterdir()}
    assert {"train-00000.tar", "test-00000.tar", "manifest.json", "README.md"} <= names

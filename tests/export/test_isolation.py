"""One image of an export costs its neighbors nothing: it is left out, and counted with its reason."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger
import pytest
import structlog
from doubles import WatchedStorage, query
from export import exporting
from export.exporting import StoredImage, crawl_of, export, image_bytes, made, make_export, metadata_rows, stored_images
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.models import Image as ImageRow
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_else")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    # A traceback on the console takes longer than everything else here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def export_with(runtime: Runtime, job: int, options: object = None) -> JobRef:
    ref = make_export(runtime, job, options)
    exporting.drive(runtime, submission.start(runtime, EXPORT, ref.id))
    return ref


def skipped(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    """Return what was left out. Assert that the job is complete, and that every image has one outcome."""
    row = exporting.row(runtime, ref)
    assert (row.status, row.progress) == ("completed", 100), row.error_message
    result = row.export_options["result"]
    assert row.exported_images == result["images"] == len(metadata_rows(made(runtime, ref)))
    assert row.exported_images + sum(result["skipped"].values()) == row.total_images
    found: dict[str, int] = result["skipped"]
    return found


# Layouts

#: A layout whose behavior is the label of the image.
ODD_LAYOUT = """
import sys
from pixcrawler_worker.exporters.flat import Flat
from pixcrawler_worker.exporters.protocol import Entry

class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Odd(Flat):
    summary = "odd"

    def add(self, sample):
        if sample.label == "good":
            return super().add(sample)
        path = f"images/{sample.stem}.jpg"
        return eval(sample.label, globals(), locals())

def throw(error):
    raise error

def late(path, body):
    yield Entry(path, body)
    raise KeyError("late")
"""
ODD_RESULTS = (
    "throw(KeyError('x'))",
    "throw(UnprintableError())",
    "throw(MemoryError())",
    "throw(GeneratorExit())",
    "throw(SystemExit(3))",
    "throw(RecursionError())",
    "None",
    "path",
    "(path, None)",
    "(path, iter([None]))",
    "(None, iter([Entry(path, sample.body)]))",
    "('\\u00e9', iter([Entry(path, sample.body)]))",
    "(path, late(path, sample.body))",
    "(path, iter([Entry(path, 'text')]))",
    "(path, iter([Entry(None, sample.body)]))",
    "(path, iter([Entry('', sample.body)]))",
    "(path, iter([Entry('/etc/passwd', sample.body)]))",
    "(path, iter([Entry('../x.jpg', sample.body)]))",
    "(path, iter([Entry('caf\\u00e9.jpg', sample.body)]))",
    "(path, iter([Entry('a' * 100, sample.body)]))",
    "(path, iter([Entry('a/' * 100 + 'b', sample.body)]))",
    "(path, iter([Entry(path, sample.body), Entry(path, sample.body)]))",
)


@pytest.fixture
def odd_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with the layout `odd` as pip leaves it."""
    metadata = tmp_path / "odd_layout-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-layout\nVersion: 1.0\n")
    module = f"odd_{tmp_path.name}"
    (metadata / "entry_points.txt").write_text(f"[pixcrawler.layouts]\nodd = {module}:Odd\n")
    (tmp_path / f"{module}.py").write_text(ODD_LAYOUT)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("odd_layout")
def test_whatever_a_layout_does_for_an_image_the_others_are_exported(runtime: Runtime) -> None:
    odd = [StoredImage(image_bytes(100 + at), label=label) for at, label in enumerate(ODD_RESULTS)]
    job = crawl_of(runtime, [*stored_images(6, label="good"), *odd])
    ref = export_with(runtime, job, {"layout": "odd"})
    assert skipped(runtime, ref) == {"internal_error": len(ODD_RESULTS)}
    archive = made(runtime, ref)
    assert sum(path.startswith("images/") for path in archive) == 6
    assert len(archive["images.csv"].splitlines()) == 7
    assert len(archive["ATTRIBUTION.txt"].splitlines()) == 8
    assert set(archive) == {line.split("  ")[1] for line in archive["SHA256SUMS"].decode().splitlines()} | {
        "SHA256SUMS"
    }
    failed = exporting.row(runtime, export(runtime, job, {"layout": "odd", "image": {"on_error": "fail"}}))
    assert failed.status == "failed"
    assert "is internal_error: " in str(failed.error_message)


@pytest.mark.usefixtures("odd_layout")
def test_an_export_whose_layout_raises_for_every_image_fails_with_the_reason(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3, label="throw(KeyError('x'))"))
    row = exporting.row(runtime, export(runtime, job, {"layout": "odd"}))
    assert (row.status, row.error_message) == ("failed", "no image could be exported: 3 internal error")


def test_what_an_archive_without_images_left_out_is_counted(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(4))
    ((url,),) = query(runtime, "SELECT storage_url FROM images ORDER BY filename LIMIT 1")
    runtime.run(runtime.storage.delete([runtime.storage.key(url)]))
    row = exporting.row(runtime, export(runtime, job, {"archive": {"part_max_images": 1}}))
    assert (row.status, row.total_images, row.exported_images) == ("completed", 4, 3)
    assert row.export_options["result"]["skipped"] == {"missing": 1}
    assert row.error_message == "left out: 1 missing"


# Decoder and rows


class OddDecoder(Decoder):
    """A decoder that calls a function with the bytes of each image that it inspects or converts."""

    def __init__(self, before: Callable[[bytes], None]) -> None:
        super().__init__(Limits())
        self._before = before

    async def inspect(self, body: bytes) -> ImageFacts:
        self._before(body)
        return await super().inspect(body)

    async def convert(self, body: bytes, conversion: Conversion) -> Converted | None:
        self._before(body)
        return await super().convert(body, conversion)


@pytest.mark.parametrize("error", [KeyError("bands"), MemoryError(), RecursionError()])
def test_a_bug_that_one_image_meets_leaves_it_out(runtime: Runtime, error: Exception) -> None:
    images = stored_images(8)
    job = crawl_of(runtime, images)

    def before(body: bytes) -> None:
        if body in {images[2].body, images[5].body}:
            raise error

    odd = replace(runtime, decoder=OddDecoder(before))
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as logs:
        ref = export_with(odd, job, {"image": {"format": "png"}})
    runtime.run(odd.decoder.aclose())
    assert skipped(runtime, ref) == {"internal_error": 2}
    tracebacks = [line["exc_info"] for line in logs if "internal error" in line["event"]]
    assert tracebacks == [error, None], "one traceback for a kind of bug"


def test_when_this_machine_has_run_out_of_something_no_image_is_left_out(runtime: Runtime) -> None:
    images = stored_images(4)
    job = crawl_of(runtime, images)

    def before(body: bytes) -> None:
        if body == images[1].body:
            raise OSError(28, "No space left on device")

    odd = replace(runtime, decoder=OddDecoder(before))
    ref = export_with(odd, job, {"image": {"format": "png"}})
    runtime.run(odd.decoder.aclose())
    assert exporting.row(runtime, ref).status == "running"
    assert query(runtime, "SELECT state FROM pixcrawler.chunks") == [("queued",)]


NUMBERS = st.sampled_from([None, 0, -1, 1, 2**31 - 1, -(2**31)])
TEXTS = st.sampled_from(
    [
        "",
        "\u202e\u200b",
        "=1+1",
        "x" * 3000,
        '"\n,;\t\\',
        "\x01\x7f\u2028",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ]
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.sampled_from(["", ".", "a" * 255, "../../x"]),
        "original_url": st.sampled_from(["", "http://[::1]@/x.jpg", "\ufffd" * 300, "%00"]),
        "storage_url": st.sampled_from(["", "file://", "s3://x/y", "\u202e"]),
        "width": NUMBERS,
        "height": NUMBERS,
        "file_size": NUMBERS,
        "format": st.sampled_from([None, "", "JPEG", "exe", "png", "\u00e9" * 10]),
    },
)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("label", "title", "author", "license", "license_url", "attribution", "page_url", "query"), TEXTS
        ),
        "phash": st.sampled_from([0, -1, 2**63 - 1, -(2**63)]),
        "frames": NUMBERS.filter(lambda number: number is not None),
        "crawled_at": st.sampled_from(["infinity", "-infinity", "4713-01-01 BC", "294276-12-31"]),
    },
)
BODIES = st.one_of(st.none(), st.binary(max_size=64), st.sampled_from([b"GIF89a", b"\xff\xd8\xff"]))
LAYOUTS = ("imagefolder", "coco", "parquet", "tfrecord", "label_studio", "flat", "yolo")


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # an example is a whole job: making it smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(st.tuples(ROWS, FACTS, BODIES), min_size=6, max_size=6), layout=st.sampled_from(LAYOUTS))
@example(rows=[({"width": -(2**31), "height": 2**31 - 1, "format": "exe"}, {}, None)] * 6, layout="flat")
def test_whatever_a_row_and_its_file_hold_the_others_are_exported(
    runtime: Runtime, rows: list[tuple[dict[str, Any], dict[str, Any], bytes | None]], layout: str
) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    job = crawl_of(runtime, stored_images(12))
    stored = query(runtime, "SELECT id, storage_url FROM images WHERE crawl_job_id = :id ORDER BY id", id=job)
    for (image_id, url), (values, facts, body) in zip(stored, rows, strict=False):
        if body is not None:
            runtime.run(runtime.storage.put(runtime.storage.key(url), body))
        with runtime.sessions.begin() as session:
            for name, value in values.items():
                setattr(session.get_one(ImageRow, image_id), name, value)
        for name, value in facts.items():
            cast = "CAST(:value AS timestamptz)" if name == "crawled_at" else ":value"
            ledger.execute(
                runtime.sessions,
                f"UPDATE pixcrawler.image_facts SET {name} = {cast} WHERE image_id = :id",
                value=value,
                id=image_id,
            )
    ref = export_with(runtime, job, {"layout": layout})
    row = exporting.row(runtime, ref)
    errors = query(runtime, "SELECT error FROM pixcrawler.chunks WHERE error IS NOT NULL")
    assert (row.status, row.error_message if row.status == "failed" else None, errors) == ("completed", None, [])
    result = row.export_options["result"]
    assert result["images"] + sum(result["skipped"].values()) == row.total_images == 12
    assert result["images"] >= 6
    assert set(result["skipped"]) <= {"missing", "changed", "empty", "not_an_image", "corrupt", "unsupported_format"}
    table = exporting.row(runtime, export(runtime, job, format_="csv"))
    assert (table.status, table.total_images) == ("completed", 12)


# Storage


class DamagedStorage(WatchedStorage):
    """A storage that answers some keys with an error."""

    def __init__(self, runtime: Runtime, errors: dict[str, WorkerError]) -> None:
        super().__init__(runtime)
        self._errors = errors

    async def get_all(self, keys: Any, use: Any, *, max_bytes: int) -> Any:
        return [
            self._errors[key]
            if key in self._errors
            else (await super(DamagedStorage, self).get_all([key], use, max_bytes=max_bytes))[0]
            for key in keys
        ]

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if key in self._errors:
            raise self._errors[key]
        return await super().get(key, max_bytes=max_bytes)


DENIED = OutageError("Permission denied", may_be_one_file=True)


@pytest.mark.parametrize("error", [DENIED, PermanentError("not supported")])
@pytest.mark.parametrize("images", [5, 1])
def test_a_file_that_the_storage_cannot_read_is_left_out_when_it_reads_others(
    runtime: Runtime, error: WorkerError, images: int
) -> None:
    job = crawl_of(runtime, stored_images(5))
    urls = [url for (url,) in query(runtime, "SELECT storage_url FROM images ORDER BY id")]
    damaged = {runtime.storage.key(urls[1]): error}
    if images == 1:
        ledger.execute(runtime.sessions, "DELETE FROM images WHERE storage_url <> :url", url=urls[1])
    ref = export_with(replace(runtime, storage=DamagedStorage(runtime, damaged)), job)
    row = exporting.row(runtime, ref)
    if images == 1:
        assert (row.status, row.error_message) == ("failed", "no image could be exported: 1 unreadable")
    else:
        assert skipped(runtime, ref) == {"unreadable": 1}


class DenyingStorage(WatchedStorage):
    """A storage that denies everything from the third image of an export on, up to the last one."""

    def __init__(self, runtime: Runtime, last: int) -> None:
        super().__init__(runtime)
        self._read, self._last = 0, last

    async def get_all(self, keys: Any, use: Any, *, max_bytes: int) -> Any:
        return [await self._use(key, use, max_bytes) for key in keys]

    async def _use(self, key: str, use: Any, max_bytes: int) -> Any:
        self._read += 1
        if 2 < self._read <= self._last:
            return DENIED
        return (await super().get_all([key], use, max_bytes=max_bytes))[0]

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if 2 < self._read < self._last:
            raise DENIED
        return await super().get(key, max_bytes=max_bytes)


@pytest.mark.parametrize(("last", "expected"), [(5, ("completed", 5)), (1000, ("running", 0))])
def test_denied_access_that_begins_within_a_batch_leaves_no_image_out(
    runtime: Runtime, last: int, expected: tuple[str, int]
) -> None:
    job = crawl_of(runtime, stored_images(5))
    ref = export_with(replace(runtime, storage=DenyingStorage(runtime, last)), job)
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images) == expected


def test_a_storage_that_can_read_no_file_is_an_outage(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(5))
    urls = [url for (url,) in query(runtime, "SELECT storage_url FROM images ORDER BY id")]
    damaged = {runtime.storage.key(url): DENIED for url in urls}
    ref = export_with(replace(runtime, storage=DamagedStorage(runtime, dict(damaged))), job)
    assert exporting.row(runtime, ref).status == "running"
    assert query(runtime, "SELECT state, error FROM pixcrawler.chunks") == [("queued", "Permission denied")]

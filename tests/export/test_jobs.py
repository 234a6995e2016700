"""Whole export jobs: which images they select, and what they write."""

import csv
import hashlib
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ledger
import psutil
import pytest
from doubles import query
from export import exporting
from export.exporting import (
    ALONE,
    StoredImage,
    crawl_of,
    export,
    files,
    image_bytes,
    made,
    metadata_rows,
    stored_images,
    untarred,
    unzipped,
)
from PIL import Image
from validate import validation_jobs

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.inspection.decoders import share_of_cores
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.kind import VALIDATION

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
LABELS = ("cat", "train", "CON", "../x", "Cat", "\N{CAT FACE}" * 200, "con")


pytestmark = pytest.mark.usefixtures("nothing_else")


def decode_processes() -> set[int]:
    """Return the decode processes of this one: servers have children that come and go."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "pixcrawler_worker.inspection" in child.cmdline():  # a zombie has no command line
                found.add(child.pid)
    return found


@contextmanager
def most_processes() -> Iterator[list[int]]:
    """Yield a list whose only number is how many decode processes there were at a time, at most, in the context."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], len(decode_processes()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        ended.set()
        watching.join()


def labeled(count: int) -> list[StoredImage]:
    return [replace(one, label=LABELS[at % len(LABELS)]) for at, one in enumerate(stored_images(count))]


# Content


def test_an_archive_has_every_image_by_label_with_its_metadata(runtime: Runtime) -> None:
    credit = Credit(title="=HYPERLINK(1)", author="Ann", license="cc-by-4.0", page_url="https://example.org/a, b")
    job = crawl_of(runtime, [StoredImage(image_bytes(1), credit=credit), *labeled(21)[2:]])
    ref = export(runtime, job)
    row = exporting.row(runtime, ref)
    assert (row.status, row.progress, row.total_images, row.exported_images) == ("completed", 100, 20, 20)
    assert row.error_message is None
    found = files(runtime, ref)
    assert set(found) == ALONE
    name, archive = "my-images.zip", found["my-images.zip"]
    assert row.download_url == runtime.storage.url(f"exports/{ref.id}/my-images.zip")
    assert name == "my-images.zip"
    assert row.file_size == len(archive)
    assert row.completed_at
    assert row.expires_at
    assert 604_790 < (row.expires_at - row.completed_at).total_seconds() < 604_810
    entries = unzipped(archive)
    rows = metadata_rows(entries)
    assert len(rows) == 20
    for one in rows:
        body = entries[one["path"]]
        assert (one["sha256"], one["bytes"]) == (hashlib.sha256(body).hexdigest(), len(body))
        assert (one["width"], one["height"], one["mime"], one["engine"]) == (96, 72, "image/jpeg", "shelf")
        assert one["phash"] == f"{inspect_bytes(body, Limits()).phash:016x}"
    assert Counter(one["label"] for one in rows) == Counter(["cat", *(one.label for one in labeled(21)[2:])])
    folders = {one["label"]: one["path"].split("/")[0] for one in rows}
    assert len({folder.casefold() for folder in folders.values()}) == len(LABELS), "no two labels share a folder"
    (credited,) = [one for one in rows if one["author"]]
    assert credited["title"] == "=HYPERLINK(1)", "JSON has no formulas"
    table = list(csv.DictReader(io.StringIO(entries["images.csv"].decode())))
    assert {line["file_name"] for line in table} == {one["path"] for one in rows}
    assert [line["title"] for line in table if line["author"]] == ["'=HYPERLINK(1)"]
    assert all(None not in one.values() for one in rows)
    sums = {line[66:]: line[:64] for line in entries["SHA256SUMS"].decode().splitlines()}
    assert sums == {path: hashlib.sha256(body).hexdigest() for path, body in entries.items() if path != "SHA256SUMS"}
    assert "Ann" in entries["ATTRIBUTION.txt"].decode()
    assert "20 images of 7 classes" in entries["README.md"].decode()
    assert "Layout `imagefolder`: a folder per class" in entries["README.md"].decode()
    with runtime.sessions.begin() as session:
        events = [entry.action for entry in activity_log.latest(session, ref)]
    assert events == ["export_job.completed", "export_job.started"]
    assert query(runtime, "SELECT count(*) FROM pixcrawler.export_items") == [(0,)], "the entries are deleted"


def test_only_valid_images_that_the_options_select_are_exported(runtime: Runtime) -> None:
    small = StoredImage(image_bytes(50, size=(40, 40)))
    free = replace(stored_images(1, first=60)[0], credit=Credit(license="cc0-1.0"), label="dog")
    job = crawl_of(runtime, [*stored_images(6, credit=Credit(license="cc-by-sa-4.0")), small, free])

    def exported(**select: Any) -> int:
        row = exporting.row(runtime, export(runtime, job, {"select": select}))
        return row.exported_images if row.status == "completed" else -1

    assert exported() == 8, "there is no validation"
    validation_jobs.validate(runtime, job)
    assert exported() == 7, "the small one is invalid"
    assert exported(only_valid=False) == 8
    assert exported(only_valid=False, exclude_flags=["dimensions"]) == 7
    assert exported(labels=["dog"]) == 1
    assert exported(labels=["horse"]) == -1
    assert exported(licenses=["cc0"]) == 1
    assert exported(licenses=["cc-by-sa", "cc0"]) == 7
    assert exported(licenses=["cc-by-nc"]) == -1
    assert exported(only_valid=False, min_width=41) == 7
    assert exported(min_width=97) == -1
    assert exported(limit=3) == 3
    second = validation_jobs.make_validation(runtime, job, {"mode": "report_only", "checks": {"dimensions": False}})
    validation_jobs.drive(runtime, submission.start(runtime, VALIDATION, second.id))
    assert exported() == 7, "a report changes nothing"
    validation_jobs.validate(runtime, job, {"checks": {"dimensions": False}})
    assert exported() == 8, "the newest completed validation counts"


def test_named_images_are_left_out_and_move_no_others(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(12))
    ratios = {"splits": {"ratios": {"train": 0.5, "test": 0.5}}}

    def exported(*digests: str) -> dict[str, str]:
        options = {**ratios, "select": {"exclude_images": digests}}
        return {one["path"]: one["split"] for one in metadata_rows(made(runtime, export(runtime, job, options)))}

    everything = exported("0" * 64)
    assert len(everything) == 12
    unwanted = [path.split("/")[-1][:64] for path in sorted(everything)][::4]
    left = exported(*(digest.upper() for digest in unwanted))
    assert left == {path: split for path, split in everything.items() if not any(one in path for one in unwanted)}
    assert len(left) == 9


def test_an_image_without_a_recorded_digest_is_excluded_by_that_of_its_url_before_and_after_a_validation(
    runtime: Runtime,
) -> None:
    stored = stored_images(3)
    job = crawl_of(runtime, [replace(one, url=f"https://example.org/{at}") for at, one in enumerate(stored)])
    ledger.execute(
        runtime.sessions,
        "DELETE FROM pixcrawler.image_facts f USING images i WHERE i.id = f.image_id AND original_url LIKE '%/1'",
    )
    options = {"select": {"exclude_images": [hashlib.sha256(b"https://example.org/1").hexdigest()]}}
    assert exporting.row(runtime, export(runtime, job, options)).exported_images == 2
    validation_jobs.validate(runtime, job)
    assert exporting.row(runtime, export(runtime, job, options)).exported_images == 2
    assert exporting.row(runtime, export(runtime, job)).exported_images == 3


def test_a_limit_selects_a_sample_and_a_larger_limit_a_superset(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(30))
    few, many = (
        {one["sha256"] for one in metadata_rows(made(runtime, export(runtime, job, {"select": {"limit": limit}})))}
        for limit in (10, 20)
    )
    assert few < many


def test_flags_of_a_validation_are_a_column_of_the_metadata(runtime: Runtime) -> None:
    strip = StoredImage(image_bytes(7, size=(400, 80)))
    job = crawl_of(runtime, [*stored_images(2), strip])
    validation_jobs.validate(runtime, job)
    flags = {one["width"]: one["flags"] for one in metadata_rows(made(runtime, export(runtime, job)))}
    assert "aspect_ratio" in flags[400].split(",")
    assert "aspect_ratio" not in flags[96]


# Splits


def test_splits_depend_on_the_hash_and_added_images_move_no_others(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(40))

    def splits_by_sha256() -> dict[str, str]:
        rows = metadata_rows(made(runtime, export(runtime, job, {"splits": {"ratios": SPLITS, "seed": 5}})))
        assert all(one["path"].startswith(f"{one['split']}/cat/") for one in rows)
        return {one["sha256"]: one["split"] for one in rows}

    before = splits_by_sha256()
    assert before == {sha256: exporting.split_of(sha256, SPLITS, seed=5) for sha256 in before}
    assert set(before.values()) == set(SPLITS)
    exporting.add(runtime, job, stored_images(20, first=100))
    after = splits_by_sha256()
    assert len(after) == 60
    assert {sha256: after[sha256] for sha256 in before} == before


def test_near_duplicates_are_in_one_split(runtime: Runtime) -> None:
    def similar(number: int, quality: int) -> StoredImage:
        return StoredImage(image_bytes(number, size=(320, 240), quality=quality))

    job = crawl_of(runtime, [similar(number, quality) for number in range(25) for quality in (95, 80, 70)])
    validation_jobs.validate(runtime, job, {"checks": {"near_duplicate": True}})
    rows = metadata_rows(made(runtime, export(runtime, job, {"splits": {"ratios": {"train": 0.5, "test": 0.5}}})))
    assert len(rows) == 75
    groups = dict(
        query(runtime, "SELECT encode(sha256, 'hex'), coalesce(keeper_id, image_id) FROM pixcrawler.verdicts")
    )
    assert len(set(groups.values())) == 25
    by_group: dict[int, set[str]] = {}
    for one in rows:
        by_group.setdefault(groups[one["sha256"]], set()).add(one["split"])
    assert all(len(found) == 1 for found in by_group.values())
    assert {split for found in by_group.values() for split in found} == {"train", "test"}
    # The options can allow leaks.
    leaky = {"splits": {"ratios": {"train": 0.5, "test": 0.5}, "by": "image"}}
    by_group.clear()
    divided = made(runtime, export(runtime, job, leaky))
    assert b"near duplicates" not in divided["README.md"], "the card must not promise it"
    for one in metadata_rows(divided):
        by_group.setdefault(groups[one["sha256"]], set()).add(one["split"])
    assert any(len(found) == 2 for found in by_group.values())


def test_stratified_splits_keep_their_ratios_in_each_class(runtime: Runtime) -> None:
    job = crawl_of(runtime, [*stored_images(20), *stored_images(10, first=50, label="dog")])
    options = {"splits": {"ratios": {"train": 0.8, "test": 0.2}, "stratify": "label"}}
    counts = Counter(
        (one["label"], one["split"]) for one in metadata_rows(made(runtime, export(runtime, job, options)))
    )
    assert counts == {("cat", "train"): 16, ("cat", "test"): 4, ("dog", "train"): 8, ("dog", "test"): 2}


# Parts


def test_parts_are_independent_archives_that_can_be_unpacked_into_one_folder(runtime: Runtime) -> None:
    job = crawl_of(runtime, labeled(40))
    ref = export(runtime, job, {"archive": {"part_max_images": 15}})
    row = exporting.row(runtime, ref)
    found = files(runtime, ref)
    names = [f"part-0000{number}-of-00003.zip" for number in range(3)]
    assert sorted(found) == sorted([*names, "README.md", "croissant.json", "dataset.html", "manifest.json"])
    assert row.download_url == runtime.storage.url(f"exports/{ref.id}/manifest.json")
    manifest = json.loads(found["manifest.json"])
    assert [one["name"] for one in manifest["parts"]] == names
    assert [one["images"] for one in manifest["parts"]] == [15, 15, 10]
    for one in manifest["parts"]:
        body = found[one["name"]]
        assert (one["size"], one["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert one["url"] == runtime.storage.url(f"exports/{ref.id}/{one['name']}")
    assert row.file_size == manifest["file_size"] == sum(len(found[name]) for name in names)
    together: dict[str, bytes] = {}
    for name in names:
        entries = unzipped(found[name])
        assert together.keys().isdisjoint(entries)
        rows = metadata_rows(entries)
        assert len(rows) == len([path for path in entries if path.endswith(".jpg")])
        together |= entries
    assert len(metadata_rows(together)) == 40
    assert all(one["path"] in together for one in metadata_rows(together))


@pytest.mark.parametrize("layout", ["imagefolder", "flat", "coco", "yolo", "label_studio"])
def test_files_are_named_by_a_template_in_all_parts_and_tables(runtime: Runtime, layout: str) -> None:
    title = Credit(title="../../etc/passwd test")
    job = crawl_of(runtime, [*labeled(12), *stored_images(6, first=50, credit=title, label="test")])
    options = {"layout": layout, "name_template": "{title}_{index:4}", "archive": {"part_max_images": 10}}
    ref = export(runtime, job, options)
    assert exporting.row(runtime, ref).error_message is None
    archives = [body for name, body in files(runtime, ref).items() if name.endswith(".zip")]
    entries = [unzipped(archive) for archive in archives]
    images = {path: body for one in entries for path, body in one.items() if path.endswith(".jpg")}
    stems = sorted(path.rpartition("/")[2].removesuffix(".jpg") for path in images)
    assert [stem[-4:] for stem in sorted(stems, key=lambda stem: stem[-4:])] == [f"{n:04}" for n in range(1, 19)]
    assert {stem[:-5] for stem in stems} == {"untitled", "etc-passwd-tests"}
    tables = [
        line
        for one in entries
        for name, body in one.items()
        if name.startswith("images-part")
        for line in csv.DictReader(io.StringIO(body.decode()))
    ]
    assert {line["file_name"]: line["sha256"] for line in tables} == {
        path: hashlib.sha256(body).hexdigest() for path, body in images.items()
    }


def test_an_invalid_template_in_a_row_fails_the_export_with_what_is_expected(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(1))
    row = exporting.row(runtime, export(runtime, job, {"name_template": "{title}"}))
    assert row.status == "failed"
    assert (row.error_message or "").startswith("export_options.name_template: names must differ")


@pytest.mark.parametrize(
    ("name", "archive"),
    [("Test", "dataset.zip"), ("steam train", "dataset.zip"), ("Trainers", "trainers.zip"), ("\u732b", "dataset.zip")],
)
def test_an_archive_is_not_named_like_a_split(runtime: Runtime, name: str, archive: str) -> None:
    ref = exporting.make_export(runtime, crawl_of(runtime, stored_images(1)))
    ledger.execute(runtime.sessions, "UPDATE export_jobs SET name = :name WHERE id = :id", name=name, id=ref.id)
    exporting.drive(runtime, submission.start(runtime, EXPORT, ref.id))
    assert set(files(runtime, ref)) == {archive, "croissant.json"}


@pytest.mark.parametrize("name", ["con", "AUX", "Nul", "COM1", "lpt9"])
def test_an_archive_has_a_name_that_windows_allows(runtime: Runtime, name: str) -> None:
    ref = exporting.make_export(runtime, crawl_of(runtime, stored_images(1)))
    ledger.execute(runtime.sessions, "UPDATE export_jobs SET name = :name WHERE id = :id", name=name, id=ref.id)
    exporting.drive(runtime, submission.start(runtime, EXPORT, ref.id))
    assert set(files(runtime, ref)) == {"dataset.zip", "croissant.json"}


@pytest.mark.parametrize(("layout", "format_"), [("webdataset", "tar"), ("table", "csv")])
def test_the_card_is_next_to_an_archive_that_is_read_as_it_is(runtime: Runtime, layout: str, format_: str) -> None:
    ref = export(runtime, crawl_of(runtime, stored_images(3)), {"layout": layout}, format_=format_)
    found = files(runtime, ref)
    assert sorted(found) == sorted(exporting.row(runtime, ref).export_options["result"]["files"])
    assert b"dataset_info" in found["README.md"]
    bare = export(
        runtime,
        crawl_of(runtime, stored_images(3)),
        {"layout": layout, "extras": {"dataset_card": False}},
        format_=format_,
    )
    assert "README.md" not in files(runtime, bare)


def test_no_part_exceeds_its_limit(runtime: Runtime) -> None:
    rows = [StoredImage(image_bytes(number, size=(900, 700), quality=95)) for number in range(30)]
    job = crawl_of(runtime, rows)
    ref = export(runtime, job, {"archive": {"part_max_bytes": 1_000_000}})
    sizes = [len(body) for name, body in files(runtime, ref).items() if name.endswith(".zip")]
    assert len(sizes) > 1
    assert max(sizes) <= 1_000_000
    assert sum(sizes) / len(sizes) > 500_000, "nor much smaller"


def test_a_shard_has_images_of_one_split(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(40))
    ref = export(runtime, job, {"splits": {"ratios": SPLITS}, "archive": {"part_max_images": 15}}, format_="tar")
    shards = {name: untarred(body) for name, body in files(runtime, ref).items() if name.endswith(".tar")}
    assert {"train-00000.tar", "train-00001.tar", "val-00000.tar", "test-00000.tar"} <= set(shards)
    for name, entries in shards.items():
        rows = [json.loads(body) for path, body in entries.items() if path.endswith(".json")]
        assert {one["split"] for one in rows} == {name.split("-")[0]}
    assert exporting.row(runtime, ref).exported_images == 40


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("zip", {"splits": {"ratios": SPLITS}}),
        ("zip", {"archive": {"part_max_images": 9}}),
        ("tar", {"splits": {"ratios": SPLITS}, "archive": {"part_max_images": 9}}),
        ("csv", {}),
    ],
)
def test_the_same_images_give_the_same_bytes_whatever_their_order(
    runtime: Runtime, format_: str, options: dict[str, Any]
) -> None:
    stored = labeled(30)
    first, second = crawl_of(runtime, stored), crawl_of(runtime, stored[::-1])
    ended = "UPDATE crawl_jobs SET completed_at = '2026-01-02'"
    ledger.execute(runtime.sessions, ended)
    one, other = (files(runtime, export(runtime, job, options, format_=format_)) for job in (first, second))
    one.pop("manifest.json", None)
    other.pop("manifest.json", None)
    assert one == other


# Conversion


def test_formats_that_a_layout_does_not_support_are_converted(runtime: Runtime) -> None:
    job = crawl_of(
        runtime, [StoredImage(image_bytes(1, "GIF")), StoredImage(image_bytes(2, "PNG")), StoredImage(image_bytes(3))]
    )
    rows = metadata_rows(made(runtime, export(runtime, job)))
    assert sorted(one["mime"] for one in rows) == ["image/jpeg", "image/jpeg", "image/png"]
    ref = export(runtime, job, format_="tar")
    archive = files(runtime, ref)["train-00000.tar"]
    assert {path.split(".")[-1] for path in untarred(archive) if "__meta__" not in path} == {"jpg", "cls", "json"}


def test_images_are_resized_rotated_and_converted_as_the_options_say(runtime: Runtime) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    kinds = ("JPEG", "PNG", "WEBP", "TIFF")
    stored = [StoredImage(image_bytes(number, kind, exif=rotated)) for number, kind in enumerate(kinds)]
    job = crawl_of(runtime, [*stored, StoredImage(image_bytes(9, size=(300, 200)))])
    upright = {(one["width"], one["height"]) for one in metadata_rows(made(runtime, export(runtime, job)))}
    assert upright == {(72, 96), (300, 200)}
    options = {"image": {"format": "png", "resize": {"mode": "cover", "size": 64}}}
    entries = made(runtime, export(runtime, job, options))
    for one in metadata_rows(entries):
        body = entries[one["path"]]
        assert (one["width"], one["height"], one["mime"]) == (64, 64, "image/png")
        assert Image.open(io.BytesIO(body)).size == (64, 64)
        assert one["sha256"] == hashlib.sha256(body).hexdigest()
    as_stored = {"image": {"orient": False}}
    assert (96, 72) in {
        (one["width"], one["height"]) for one in metadata_rows(made(runtime, export(runtime, job, as_stored)))
    }


@pytest.mark.parametrize("odd", [b"\xff", b"\xff" * 5, b"\xff\xfe\0\2", b"\xff\xfe\0\2\0\0"])
def test_an_image_is_rotated_whatever_is_before_its_exif(runtime: Runtime, odd: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = image_bytes(1, exif=exif)
    archive = made(runtime, export(runtime, crawl_of(runtime, [StoredImage(body[:2] + odd + body[2:])])))
    (row,) = metadata_rows(archive)
    assert (row["width"], row["height"]) == (72, 96)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_archives_of_an_export_share_the_cores_for_converting(runtime: Runtime, parts: int) -> None:
    stored = {f"https://example.org/{number}": image_bytes(number) for number in range(60)}
    job = crawl_of(runtime, [StoredImage(body, url=url) for url, body in stored.items()])
    runtime.run(runtime.decoder.inspect(image_bytes(1)))  # its process stays
    before = decode_processes()
    with most_processes() as most:
        options = {"image": {"format": "png"}, "archive": {"part_max_images": 60 // parts}}
        written = files(runtime, export(runtime, job, options))
    archives = [unzipped(body) for name, body in written.items() if name.endswith(".zip")]
    assert len(archives) == parts
    images = [archive[one["path"]] for archive in archives for one in metadata_rows(archive)]
    assert {Image.open(io.BytesIO(body)).tobytes() for body in images} == {
        Image.open(io.BytesIO(body)).tobytes() for body in stored.values()
    }
    assert most[0] - len(before) == share_of_cores(parts) - 1
    assert decode_processes() == before


def test_each_row_has_its_own_image_whichever_process_converts_it(runtime: Runtime) -> None:
    stored = {f"https://example.org/{number}": image_bytes(number) for number in range(60)}
    job = crawl_of(runtime, [StoredImage(body, url=url) for url, body in stored.items()])
    entries = made(runtime, export(runtime, job, {"image": {"format": "png"}}))
    rows = metadata_rows(entries)
    assert {one["source_url"] for one in rows} == set(stored)
    for one in rows:
        original = Image.open(io.BytesIO(stored[one["source_url"]]))
        assert Image.open(io.BytesIO(entries[one["path"]])).tobytes() == original.tobytes()


def test_images_without_facts_are_exported_like_others(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(2))
    ledger.execute(runtime.sessions, "DELETE FROM pixcrawler.image_facts")
    ledger.execute(runtime.sessions, "UPDATE images SET width = NULL, height = NULL, file_size = NULL, format = NULL")
    entries = made(runtime, export(runtime, job))
    for one in metadata_rows(entries):
        assert (one["width"], one["height"], one["mime"], one["label"]) == (96, 72, "image/jpeg", "cat")
        assert one["sha256"] == hashlib.sha256(entries[one["path"]]).hexdigest()
    assert len(metadata_rows(entries)) == 2

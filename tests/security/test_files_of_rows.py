"""Rows of images that another program wrote, or an attacker: each is the trouble of its own image, and of no other."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import crawl_of, export, image_bytes, made, metadata_rows, stored_images

from pixcrawler_worker.crawl import cleanup
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import local
from pixcrawler_worker.storage.facade import Storage

LONG = "k" * 5_000


def folder_of(runtime: Runtime) -> Path:
    folder = local.path_of(runtime.storage.url(""))
    assert folder is not None
    return folder


def forget_facts(runtime: Runtime, url: str) -> None:
    """Leave the row of an image without the digest that its crawl recorded."""
    ledger.execute(
        runtime.sessions,
        f"DELETE FROM pixcrawler.image_facts USING images WHERE id = image_id AND storage_url = '{url}'",
    )


def urls_of(runtime: Runtime, job: int) -> list[str]:
    return [url for (url,) in query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id", id=job)]


def test_a_link_in_the_storage_is_not_exported_even_when_its_row_has_no_digest(
    runtime: Runtime, tmp_path: Path
) -> None:
    job = crawl_of(runtime, stored_images(4))
    (tmp_path / "private.jpg").write_bytes(image_bytes(99))
    (tmp_path / "private").mkdir()
    file, folder, *_ = urls_of(runtime, job)
    (tmp_path / "private" / Path(folder).name).write_bytes(image_bytes(98))
    path = local.path_of(file)
    assert path is not None
    path.unlink()
    path.symlink_to(tmp_path / "private.jpg")
    forget_facts(runtime, file)
    linked = folder_of(runtime) / f"crawl_jobs/{job}/linked"
    linked.symlink_to(tmp_path / "private")
    key = f"crawl_jobs/{job}/linked/{Path(folder).name}"
    ledger.execute(
        runtime.sessions,
        f"UPDATE images SET storage_url = '{runtime.storage.url(key)}' WHERE storage_url = '{folder}'",
    )
    forget_facts(runtime, runtime.storage.url(key))
    ref = export(runtime, job)
    assert exporting.row(runtime, ref).export_options["result"]["skipped"] == {"missing": 2}
    archive = made(runtime, ref)
    assert len(metadata_rows(archive)) == 2
    assert not {image_bytes(99), image_bytes(98)} & set(archive.values())


def test_orphaned_files_behind_a_linked_folder_are_not_deleted(runtime: Runtime, tmp_path: Path) -> None:
    job = crawl_of(runtime, stored_images(1))
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET completed_at = now() - interval '1 day'")
    ledger.execute(runtime.sessions, f"INSERT INTO pixcrawler.crawl_plans (crawl_job_id) VALUES ({job})")
    (tmp_path / "private/below").mkdir(parents=True)
    precious = [tmp_path / "private/one.jpg", tmp_path / "private/below/two.jpg", tmp_path / "three.jpg"]
    for path in precious:
        path.write_bytes(b"precious")
    folder = folder_of(runtime) / f"crawl_jobs/{job}"
    (folder / "linked").symlink_to(tmp_path / "private")
    (folder / "three.jpg").symlink_to(tmp_path / "three.jpg")
    runtime.run(runtime.storage.put(f"crawl_jobs/{job}/orphan.jpg", b"orphan"))
    cleanup.remove_orphans(runtime, grace_period=timedelta(0))
    assert [path.read_bytes() for path in precious] == [b"precious"] * 3
    assert not (folder / "orphan.jpg").exists(), "the clean-up has run"


@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.parametrize(
    "key",
    [LONG, f"crawl_jobs/{LONG}.jpg", "k/" * 2_500 + "k.jpg", "../../etc/hostname", "a\x1b[2J/#1", "a#1", "a//b"],
    ids=["long", "long-part", "deep", "out", "control", "number-sign", "empty-part"],
)
def test_a_row_with_a_key_that_no_file_can_have_costs_its_own_image_only(
    runtime: Runtime, s3_url: str, kind: str, key: str
) -> None:
    chosen = replace(runtime, storage=Storage(s3_url)) if kind == "s3" else runtime
    job = crawl_of(chosen, stored_images(3))
    url = urls_of(chosen, job)[0]
    forget_facts(chosen, url)
    with chosen.sessions.begin() as session:
        session.connection().exec_driver_sql(
            "UPDATE images SET storage_url = %s WHERE storage_url = %s", (chosen.storage.url(key), url)
        )
    began = time.monotonic()
    ref = export(chosen, job)
    row = exporting.row(chosen, ref)
    assert (row.status, row.exported_images) == ("completed", 2)
    assert row.error_message == "left out: 1 missing"
    failed = exporting.row(chosen, export(chosen, job, {"image": {"on_error": "fail"}}))
    assert failed.status == "failed"
    assert "is missing: " in str(failed.error_message)
    assert len(str(failed.error_message)) < 400
    assert time.monotonic() - began < 10

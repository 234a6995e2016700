"""Exports beyond what a 32-bit number of bytes holds: `make test-scale`."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import ledger
import pytest
from export import exporting
from export.exporting import image_bytes

from pixcrawler_worker.db import images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.local import path_of

pytestmark = pytest.mark.scale

#: Five and a half thousand million bytes, in files nearly as large as they may be.
PICTURES, BYTES = 280, 19_900_000


@pytest.fixture(scope="module")
def job(runtime: Runtime) -> int:
    """A crawl job with sparse files: a image each, and a hole behind it."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    made = exporting.crawl_of(runtime, [])
    folder = storage(runtime) / "crawl_jobs" / str(made) / "cat"
    folder.mkdir(parents=True)
    found = []
    for number in range(PICTURES):
        body = image_bytes(number)
        path = folder / f"{number}.jpg"
        path.write_bytes(body)
        with path.open("r+b") as file:
            file.truncate(BYTES)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        facts = replace(inspect_bytes(body, Limits()), sha256=digest, file_size=BYTES)
        found.append(
            NewImage(
                url=f"https://example.org/{number}",
                url_hash=url_hash(f"https://example.org/{number}"),
                filename=path.name,
                storage_url=path.as_uri(),
                facts=facts,
                label="cat",
                query="cat",
                source="shelf",
                credit=Credit(),
            )
        )
    with runtime.sessions.begin() as session:
        images.insert_new(session, made, found)
    return made


def storage(runtime: Runtime) -> Path:
    folder = path_of(runtime.settings.storage())
    assert folder
    return folder


@pytest.mark.parametrize(("most", "parts"), [(2_000_000_000, 4), (4_000_000_000, 2)])
def test_more_than_five_gigabytes_become_archives_that_open(runtime: Runtime, job: int, most: int, parts: int) -> None:
    ref = exporting.export(runtime, job, {"archive": {"part_max_bytes": most}})
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images, row.error_message) == ("completed", PICTURES, None)
    folder = storage(runtime) / "exports" / str(ref.id)
    archives = sorted(folder.glob("*.zip"))
    sizes = [path.stat().st_size for path in archives]
    assert len(archives) == parts
    assert max(sizes) <= most
    assert sum(sizes) > PICTURES * BYTES
    assert row.file_size is None, "it does not fit into the column"
    result = row.export_options["result"]
    assert result["file_size"] == sum(sizes)
    assert [part["size"] for part in result["parts"]] == sizes
    assert json.loads((folder / "manifest.json").read_text())["file_size"] == sum(sizes)
    seen = 0
    for path, part in zip(archives, result["parts"], strict=True):
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == part["sha256"]
        with zipfile.ZipFile(path) as packed:
            assert packed.testzip() is None
            seen += sum(name.endswith(".jpg") for name in packed.namelist())
        for command in (["unzip", "-tqq"], ["bsdtar", "-tf"]):
            if shutil.which(command[0]):
                subprocess.run([*command, path], check=True, capture_output=True)
    assert seen == PICTURES
    shutil.rmtree(folder)

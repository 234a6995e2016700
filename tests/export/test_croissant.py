"""croissant.json: digests of the archives and of the tables in them. `tests/readers` has it read by mlcroissant."""

import hashlib
import json

import ledger
import pytest
from export import exporting
from export.exporting import StoredImage, image_bytes

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.tables import COLUMNS
from pixcrawler_worker.runtime import Runtime


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.mark.parametrize(
    ("format_", "options", "archives"),
    [("zip", {}, 1), ("zip", {"archive": {"part_max_images": 4}}, 3), ("tar", {}, 1), ("csv", {}, 1)],
)
def test_it_has_the_digest_of_every_archive_and_table(
    runtime: Runtime, format_: str, options: dict[str, object], archives: int
) -> None:
    stored = [StoredImage(image_bytes(number), credit=Credit(license="cc-by-4.0")) for number in range(12)]
    ref = exporting.export(runtime, exporting.crawl_of(runtime, stored), options, format_=format_)
    files = exporting.files(runtime, ref)
    croissant = json.loads(files["croissant.json"])
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert croissant["license"] == ["https://creativecommons.org/licenses/by/4.0/"]
    assert {"name", "description", "url", "creator", "datePublished"} <= croissant.keys()
    packed = 0
    for entry in croissant["distribution"]:
        body = files.get(entry["contentUrl"])
        if body is None:
            whole = files[entry["containedIn"]["@id"]]
            body = (exporting.untarred if format_ == "tar" else exporting.unzipped)(whole)[entry["contentUrl"]]
            packed += 1
        assert entry["sha256"] == hashlib.sha256(body).hexdigest()
    assert packed == (0 if format_ == "csv" else archives)
    assert len(croissant["recordSet"]) == archives
    ids = {entry["@id"] for entry in croissant["distribution"]}
    for records in croissant["recordSet"]:
        assert [field["name"] for field in records["field"]] == list(COLUMNS)
        assert {field["source"]["fileObject"]["@id"] for field in records["field"]} <= ids

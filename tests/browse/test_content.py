"""The data of a page: what it has of images, of any job and whatever their rows say."""

import hashlib
import json
from typing import Any

import ledger
import pytest
from browse.browsing import HOSTILE, job_of
from export import exporting
from export.exporting import StoredImage, crawl_of, image_bytes
from validate import validation_jobs

from pixcrawler_worker.browse import content
from pixcrawler_worker.browse.content import Thumbnails
from pixcrawler_worker.browse.thumbnails import Cell
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.runtime import Runtime


def data_of(runtime: Runtime, job_id: int, made: Thumbnails | None = None) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(content.to_json(content.read(runtime, job_id), made))
    data["images"] = [dict(zip(data["fields"], row, strict=True)) for row in data["images"]]
    return data


def test_a_page_has_every_image_by_label_with_its_facts_and_links(runtime: Runtime) -> None:
    job = job_of(runtime, 5, name="pets")
    data = data_of(runtime, job)
    assert (data["job"]["id"], data["job"]["name"], data["serve"]) == (job, "pets", True)
    assert data["list"] == {"version": 1, "key": "exclude_images", "file": f"exclusions-job-{job}.json"}
    found = data["images"]
    assert [data["labels"][one["label"]] for one in found] == ["cat", "cat", "cat", "dog", "dog"]
    assert {one["title"] for one in found} == {f"photo {number}" for number in range(5)}
    assert [data["licenses"][one["license"]] for one in found] == ["cc0-1.0"] * 3 + [""] * 2
    assert {data["sources"][one["source"]] for one in found} == {"shelf"}
    (first,) = (one for one in found if one["title"] == "photo 0")
    body = image_bytes(0, size=(96, 72))
    assert first["sha256"] == hashlib.sha256(body).hexdigest()
    assert (first["width"], first["height"], first["valid"], first["findings"]) == (96, 72, None, [])
    assert first["links"] == [["source page", "https://example.org"], ["original image", "https://example.org/0.jpg"]]
    assert dict(first["facts"])["Format"] == "jpg"
    numbers = dict(zip([one["key"] for one in data["numbers"]], first["numbers"], strict=True))
    assert (numbers["width"], numbers["aspect"], numbers["kilobytes"]) == (96, 1.33333, len(body) / 1000)
    assert numbers["sharpness"] is None, "nothing has measured it"


def test_findings_and_measurements_of_the_validation_are_in_the_page(runtime: Runtime) -> None:
    job = crawl_of(
        runtime, [StoredImage(image_bytes(1)), StoredImage(image_bytes(2, size=(40, 40))), StoredImage(image_bytes(3))]
    )
    validation_jobs.validate(runtime, job, {"checks": {"aspect_ratio": {"max_ratio": 1.2}}})
    data = data_of(runtime, job)
    checks = [one["name"] for one in data["checks"]]
    found = {one["width"]: one for one in data["images"]}
    assert [checks[check] for check, _ in found[40]["findings"]][:1] == ["dimensions"]
    assert found[40]["valid"] is False
    texts = dict(found[96]["findings"])
    check = checks.index("aspect_ratio")
    assert texts[check] == "longer side 1.33 times the shorter one, limit 1.2"
    assert data["checks"][check] == {
        "name": "aspect_ratio", "heading": "aspect_ratio: very wide or very high", "severity": "warn",
    }  # fmt: skip
    keys = [one["key"] for one in data["numbers"]]
    assert all(found[96]["numbers"][keys.index(key)] is not None for key in ("sharpness", "entropy", "std"))


def test_a_report_is_shown_where_no_validation_counts(runtime: Runtime) -> None:
    job = crawl_of(runtime, [StoredImage(image_bytes(2, size=(40, 40)))])
    validation_jobs.validate(runtime, job, {"mode": "report_only"})
    assert data_of(runtime, job)["images"][0]["valid"] is False
    validation_jobs.validate(runtime, job, {"checks": {"dimensions": False}})
    validation_jobs.validate(runtime, job, {"mode": "report_only"})
    assert data_of(runtime, job)["images"][0]["valid"] is True, "the one that counts for exports"


def test_scores_of_classifiers_are_numbers_to_filter_by(runtime: Runtime) -> None:
    job = job_of(runtime, 3)
    validation_jobs.validate(runtime, job)
    ledger.execute(
        runtime.sessions,
        """UPDATE pixcrawler.verdicts v SET metrics = metrics || CAST(:metrics AS jsonb),
            findings = CAST(:findings AS jsonb)
        FROM images i WHERE i.id = v.image_id AND i.original_url LIKE '%/1.jpg' AND i.crawl_job_id = :job""",
        job=job,
        metrics='{"scores": {"relevance": 0.25, "model": "x", "nested": {"deep": 1}}, "odd": 1e400, "flag": true}',
        findings='[["my_style", "warn", 0.9, 0.5], ["style", "info", "drawing", null]]',
    )
    data = data_of(runtime, job)
    keys = [one["key"] for one in data["numbers"]]
    assert keys[-2:] == ["my_style", "relevance"]
    scores = {one["title"]: one["numbers"][-2:] for one in data["images"]}
    assert scores == {"photo 0": [None, None], "photo 2": [None, None], "photo 1": [0.9, 0.25]}
    (scored,) = [one for one in data["images"] if one["findings"]]
    assert [text for _, text in scored["findings"]] == ["score 0.9, flagged above 0.5", "drawing"]


def test_near_duplicates_have_the_number_of_their_group_before_any_validation(runtime: Runtime) -> None:
    small, large = image_bytes(5, size=(96, 72)), image_bytes(5, size=(192, 144))
    job = crawl_of(runtime, [StoredImage(small), StoredImage(image_bytes(6)), StoredImage(large)])
    found = data_of(runtime, job)["images"]
    ranks = {one["width"]: (one["group"], one["rank"]) for one in found if one["group"] is not None}
    assert ranks == {192: (0, 0), 96: (0, 1)}
    assert len(found) == 3


def test_text_from_outside_ends_no_element_and_is_short(runtime: Runtime) -> None:
    credit = Credit(
        title=HOSTILE, author="\x1b[31m\u202eevil", license="cc0-1.0", page_url="javascript:alert(1)",
        license_url="https://example.org/a b<script>", attribution="x" * 50_000,
    )  # fmt: skip
    stored = StoredImage(image_bytes(1), label=HOSTILE, url="https://example.org/<script>", credit=credit)
    job = crawl_of(runtime, [stored], name=HOSTILE[:100])
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.image_facts SET caption = :caption, columns = CAST(:columns AS jsonb)"
        " WHERE crawl_job_id = :job",
        job=job,
        caption="<b>" * 40_000,
        columns=json.dumps({HOSTILE: HOSTILE, "n": 3, "list": [1, "<"], "nothing": None}),
    )
    text = content.to_json(content.read(runtime, job), None)
    assert "<" not in text
    assert not {"\u2028", "\x1b", "\u202e"} & set(text)
    assert len(text) < 20_000
    (found,) = data_of(runtime, job)["images"]
    assert found["title"].startswith('</script><script>document.title = "owned"</script>'), (
        "the text itself is the same"
    )
    assert [name for name, _ in found["links"]] == ["original image", "license"], "only of web pages"
    assert found["columns"]["n"] == "3"
    assert found["columns"]["list"] == '[1, "<"]'
    assert "nothing" not in found["columns"]


def test_images_without_facts_and_rows_that_another_program_wrote_are_shown(runtime: Runtime) -> None:
    job = job_of(runtime, 3)
    ledger.execute(
        runtime.sessions,
        "DELETE FROM pixcrawler.image_facts f USING images i WHERE i.id = f.image_id AND i.crawl_job_id = :job",
        job=job,
    )
    ledger.execute(
        runtime.sessions,
        "UPDATE images SET width = NULL, height = -4, file_size = NULL, format = NULL, storage_url = NULL"
        " WHERE crawl_job_id = :job",
        job=job,
    )
    found = data_of(runtime, job)["images"]
    assert len(found) == 3
    digests = {hashlib.sha256(f"https://example.org/{number}.jpg".encode()).hexdigest() for number in range(3)}
    assert {one["sha256"] for one in found} == digests, "which an export knows, too"
    options = {"select": {"exclude_images": [found[0]["sha256"]]}}
    ledger.execute(runtime.sessions, "UPDATE images SET storage_url = 'x' WHERE crawl_job_id = :job", job=job)
    row = exporting.row(runtime, exporting.export(runtime, job, options, format_="csv"))
    assert row.total_images == 2


def test_tiles_are_places_on_sheets_or_reasons(runtime: Runtime) -> None:
    job = job_of(runtime, 3)
    read = content.read(runtime, job)
    first, second, _ = (image.record.id for image in read.images)
    made = Thumbnails(tiles={first: (4, Cell(2, 100, 75))}, reasons={second: "file missing in the storage"}, sizes=[16])
    data = data_of(runtime, job, made)
    assert [one["tile"] for one in data["images"]] == [[4, 2, 100, 75], "file missing in the storage", "no thumbnail"]
    assert data["serve"] is False


def test_a_job_that_does_not_exist_or_has_no_images_is_an_error(runtime: Runtime) -> None:
    with pytest.raises(UnknownJobError, match="there is no crawl job 123456789"):
        content.read(runtime, 123_456_789)
    empty = crawl_of(runtime, [])
    with pytest.raises(PermanentError, match=f"job {empty} has no images: there is nothing to show"):
        content.read(runtime, empty)


def test_findings_of_another_version_are_left_out(runtime: Runtime) -> None:
    job = job_of(runtime, 1)
    validation_jobs.validate(runtime, job)
    read = content.read(runtime, job)
    assert read.images[0].findings == []
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.verdicts SET findings = CAST(:findings AS jsonb) WHERE image_id = :id",
        id=read.images[0].record.id,
        findings='[["dark"], 3, ["dark", "fatal", 1, 2], ["dark", "warn", 0.1, 0.3, "more"]]',
    )
    assert [one.check for one in content.read(runtime, job).images[0].findings] == ["dark"]


def test_a_job_that_extends_another_one_shows_the_images_of_both_each_with_its_validation(runtime: Runtime) -> None:
    first = crawl_of(runtime, [StoredImage(image_bytes(31)), StoredImage(image_bytes(32, size=(40, 40)))])
    validation_jobs.validate(runtime, first)
    project = ledger.scalar(runtime.sessions, "SELECT project_id FROM crawl_jobs WHERE id = :id", id=first)
    second = crawl_of(runtime, [StoredImage(image_bytes(33), label="bee")], project_id=project)
    ledger.execute(
        runtime.sessions,
        "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, bases) VALUES (:job, ARRAY[CAST(:base AS int)])",
        job=second,
        base=first,
    )
    data = data_of(runtime, second)
    jobs = [(dict(one["facts"])["Crawl job"], one["valid"]) for one in data["images"]]
    assert jobs[0] == (str(second), None), "by label"
    assert sorted(jobs, key=str) == sorted([(str(second), None), (str(first), True), (str(first), False)], key=str)
    assert len(data_of(runtime, first)["images"]) == 2
    digests = [one["sha256"] for one in data["images"] if one["valid"] is not False]
    options = {"select": {"exclude_images": digests[:1]}}
    ref = exporting.export(runtime, second, options)
    rows = exporting.metadata_rows(exporting.made(runtime, ref))
    assert [one["sha256"] for one in rows] == digests[1:]

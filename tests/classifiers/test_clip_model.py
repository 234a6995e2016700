"""CLIP models of a few numbers: vectors of images and texts, whatever sizes a model was exported for."""

import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from pixcrawler_worker.classifiers import clip_model, model_files
from pixcrawler_worker.classifiers.clip_model import ClipModel
from pixcrawler_worker.classifiers.protocol import ClassifierConfig, Pixels
from pixcrawler_worker.errors import PermanentError


def opened(folder: Path) -> ClipModel:
    return ClipModel(model_files.in_directory(folder), threads=1)


def plain(*colors: tuple[int, int, int]) -> Pixels:
    return np.array([np.full((16, 16, 3), color, np.uint8) for color in colors])


def test_what_belongs_together_is_near(tmp_path: Path) -> None:
    model = opened(tiny_models.write_clip(tmp_path))
    red, blue = model.image_vectors(plain((255, 0, 0), (0, 0, 255)))
    texts = model.text_vectors(["a photo of red", "Blue", "a photo"])
    assert texts["a photo of red"] @ red == pytest.approx(1)
    assert texts["Blue"] @ blue == pytest.approx(1)
    assert texts["Blue"] @ red == pytest.approx(-1 / 3)
    assert not texts["a photo"].any()


@pytest.mark.parametrize("images", [1, 3, 8])
@pytest.mark.parametrize("fixed", [1, 4])
def test_a_model_for_batches_of_one_size_takes_any_number(tmp_path: Path, images: int, fixed: int) -> None:
    folder = tiny_models.write_clip(tmp_path)
    colors = [(255, 10 * at, 0) for at in range(images)]
    expected = opened(folder).image_vectors(plain(*colors))
    (folder / "onnx" / "vision_model.onnx").write_bytes(tiny_models.image_encoder(shape=(fixed, 3, 16, 16)))
    assert opened(folder).image_vectors(plain(*colors)) == pytest.approx(expected, abs=1e-6)


def test_a_text_is_as_long_as_a_model_takes_it(tmp_path: Path) -> None:
    folder = tiny_models.write_clip(tmp_path)
    long = "red " * 500 + "blue"
    (expected,) = opened(folder).text_vectors(["red"]).values()
    assert opened(folder).text_vectors([long])[long] == pytest.approx(expected, abs=1e-6)
    (folder / "onnx" / "text_model.onnx").write_bytes(tiny_models.text_encoder(tiny_models.vectors(), shape=(1, 12)))
    texts = opened(folder).text_vectors([long, "red", ""])
    assert texts["red"] == pytest.approx(expected, abs=1e-6)
    assert texts[long] == pytest.approx(expected, abs=1e-6)


def test_texts_are_encoded_once(tmp_path: Path) -> None:
    folder = tiny_models.write_clip(tmp_path)
    model = opened(folder)
    before = model.text_vectors(["red", "blue"])
    (folder / "onnx" / "text_model.onnx").unlink()
    assert model.text_vectors(["blue", "blue", "red"]).keys() == {"red", "blue"}
    assert model.text_vectors(["red"])["red"] is before["red"]
    with pytest.raises(PermanentError, match=r"text_model\.onnx is missing"):
        model.text_vectors(["green"])


def test_a_process_opens_a_model_once_however_many_ask_for_it(tmp_path: Path) -> None:
    config = ClassifierConfig(clip_model=str(tiny_models.write_clip(tmp_path)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(clip_model.opened(config))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(map(id, found))) == 1


def test_an_encoder_with_further_inputs_is_of_another_kind(tmp_path: Path) -> None:
    folder = tiny_models.write_clip(tmp_path)
    both = tiny_models.model(
        [
            tiny_models.node("Gather", ["vectors", "input_ids"], "each", axis=0),
            tiny_models.node("ReduceMean", ["each"], "text_embeds", axes=[1], keepdims=0),
            tiny_models.node("Identity", ["pixel_values"], "image_embeds"),
        ],
        [
            tiny_models.value_info("input_ids", tiny_models.INT64, ("batch", "tokens")),
            tiny_models.value_info("pixel_values", tiny_models.FLOAT, ("batch", 3, 16, 16)),
        ],
        [tiny_models.value_info("text_embeds", tiny_models.FLOAT, ("batch", 3))],
        [tiny_models.tensor("vectors", tiny_models.vectors())],
    )
    (folder / "onnx" / "text_model.onnx").write_bytes(both)
    with pytest.raises(PermanentError, match="a further input, pixel_values: the text encoder alone is expected"):
        opened(folder)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, r"model\.onnx has its weights in a file of their own, which is missing or not whole.*model\.onnx_data"),
        (b"12", r"model\.onnx has its weights in a file of their own, which is missing or not whole"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"onnx_data is not .* but a pointer of Git LFS"),
    ],
)
def test_weights_in_a_file_of_their_own_have_to_be_there(tmp_path: Path, weights: bytes | None, said: str) -> None:
    files = model_files.in_directory(tiny_models.write_clip(tmp_path))
    files.images.write_bytes(tiny_models.image_encoder(weights=f"{files.images.name}_data"))
    if weights is not None:
        files.images.with_name(f"{files.images.name}_data").write_bytes(weights)
    with pytest.raises(PermanentError, match=said) as caught:
        ClipModel(files, threads=1)
    assert "damaged" not in str(caught.value)


def test_a_model_with_its_weights_in_a_file_of_their_own_is_one_as_any(tmp_path: Path) -> None:
    files = model_files.in_directory(tiny_models.write_clip(tmp_path))
    files.images.write_bytes(tiny_models.image_encoder(weights=f"{files.images.name}_data"))
    numbers = [float(at == column) for at in range(3) for column in range(3)]
    files.images.with_name(f"{files.images.name}_data").write_bytes(struct.pack("<9f", *numbers))
    assert ClipModel(files, threads=1).text_vectors(["red"])

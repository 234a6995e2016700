"""`preprocessor_config.json`: what models of the hub say, and what is rejected by its name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import PREPROCESSING

from pixcrawler_worker.classifiers import preprocessing
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.crop import Crop

#: Of openai/clip-vit-base-patch32, as the hub has it.
CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPFeatureExtractor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}


def load(tmp_path: Path, fields: object) -> preprocessing.Preprocessing:
    path = tmp_path / preprocessing.FILE
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return preprocessing.load(path)


def test_pixels_are_what_clip_gets(tmp_path: Path) -> None:
    found = load(tmp_path, CLIP)
    assert found.crop == Crop(width=224, height=224, resized=224, resampling=3)
    pixels = np.zeros((2, 224, 224, 3), np.uint8)
    pixels[1, 5, 7] = (255, 128, 0)
    given = found(pixels)
    assert given.shape == (2, 3, 224, 224)
    assert given.dtype == np.float32
    assert given.flags.c_contiguous
    means, stds = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = [(value / 255 - mean) / std for value, mean, std in zip((255, 128, 0), means, stds, strict=True)]
    assert given[1, :, 5, 7] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "crop"),
    [
        ({"size": 224, "crop_size": 224}, Crop(width=224, height=224, resized=224)),
        ({"size": {"height": 256, "width": 320}}, Crop(width=224, height=224, resized=(320, 256))),
        (
            {"size": {"height": 384, "width": 300}, "do_center_crop": False},
            Crop(width=300, height=384, resized=(300, 384)),
        ),
        ({"resample": 2}, Crop(width=224, height=224, resized=224, resampling=2)),
        ({"crop_size": {"height": 100, "width": 200}}, Crop(width=200, height=100, resized=224)),
    ],
)
def test_sizes_are_written_in_several_ways(tmp_path: Path, changed: dict[str, Any], crop: Crop) -> None:
    assert load(tmp_path, CLIP | changed).crop == crop


def test_what_is_not_done_is_left_out(tmp_path: Path) -> None:
    found = load(tmp_path, PREPROCESSING | {"do_rescale": False, "do_normalize": False})
    assert found(np.full((1, 16, 16, 3), 200, np.uint8)).max() == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "expected an object"),
        ({}, "size: expected an integer"),
        (CLIP | {"size": {"longest_edge": 3}}, r"size.width: expected an integer"),
        (CLIP | {"size": True}, "size: expected an integer"),
        (CLIP | {"size": {"shortest_edge": 10**30}}, "not 10{30}x"),
        (CLIP | {"size": {"shortest_edge": 100}}, "224x224 pixels of the part at least"),
        (CLIP | {"crop_size": {"height": 0, "width": 3}}, "not 3x0"),
        (CLIP | {"crop_size": None}, "crop_size: expected an integer"),
        (CLIP | {"do_center_crop": False}, "do_center_crop: expected true"),
        (CLIP | {"do_resize": False}, "do_resize: expected true"),
        (CLIP | {"do_resize": "yes"}, "do_resize: expected true or false"),
        (CLIP | {"resample": 9}, "no filter 9"),
        (CLIP | {"resample": "bicubic"}, "resample: expected an integer"),
        (CLIP | {"image_mean": [0.5]}, "image_mean: expected three numbers"),
        (CLIP | {"image_std": [0.5, 0, 0.5]}, "image_std: expected numbers that are not 0"),
        (CLIP | {"image_std": ["a", "b", "c"]}, "image_std: expected a number"),
        (CLIP | {"rescale_factor": None}, "rescale_factor: expected a number"),
        (json.dumps(CLIP | {"rescale_factor": float("nan")}), "rescale_factor: expected a number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, fields: object, words: str) -> None:
    with pytest.raises(PermanentError, match=words) as raised:
        load(tmp_path, fields)
    assert str(tmp_path / preprocessing.FILE) in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="cannot be read"):
        preprocessing.load(tmp_path)

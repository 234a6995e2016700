"""Files of a CLIP model: in a directory in the layouts that there are, and on a stand-in for the hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from fakes import model_hub
from fakes.model_hub import COMMIT, ModelHub

from pixcrawler_worker.classifiers import model_files
from pixcrawler_worker.errors import PermanentError, TransientError

NAME = "ada/colors"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    folder = tiny_models.write_clip(tmp_path / "source")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with model_hub.serving(NAME, files | {"onnx/model.onnx": b"x" * 1000, "README.md": b"# Colors"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield hub


@pytest.mark.parametrize("flat", [False, True])
def test_a_directory_has_its_encoders_in_a_folder_or_beside_the_other_files(tmp_path: Path, *, flat: bool) -> None:
    folder = tiny_models.write_clip(tmp_path, flat=flat)
    found = model_files.find(str(folder), tmp_path / "models")
    assert found.images == folder / ("" if flat else "onnx") / "vision_model.onnx"
    assert found.texts == folder / ("" if flat else "onnx") / "text_model.onnx"
    model_files.require(str(folder))


def test_a_quantized_encoder_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    folder = tiny_models.write_clip(tmp_path)
    images = folder / "onnx" / "vision_model.onnx"
    smaller = images.with_name("vision_model_quantized.onnx")
    smaller.write_bytes(images.read_bytes())
    assert model_files.in_directory(folder).images == images
    images.unlink()
    assert model_files.in_directory(folder).images == smaller


@pytest.mark.parametrize(
    "name", ["onnx/vision_model.onnx", "onnx/text_model.onnx", "tokenizer.json", "preprocessor_config.json"]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = tiny_models.write_clip(tmp_path)
    (folder / name).unlink()
    with pytest.raises(PermanentError, match=f"^PIXCRAWLER_CLIP_MODEL: {folder / name} is missing: expected the "):
        model_files.require(str(folder))
    (folder / name).mkdir()
    with pytest.raises(PermanentError, match=f"{folder / name} is missing"):
        model_files.require(str(folder))


def test_what_is_no_directory_is_said(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(PermanentError, match=r"model\.onnx is a file: expected the directory of a CLIP model$"):
        model_files.require(str(file))
    with pytest.raises(PermanentError, match="write hf://Xenova/clip-vit-base-patch32 for a model of the hub"):
        model_files.require("Xenova/clip-vit-base-patch32")
    with pytest.raises(PermanentError, match="cannot be read"):
        model_files.require("x" * 5000)


@pytest.mark.parametrize(
    "name", ["hf://", "hf://a", "hf:a/b", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b c", "hf://a--b/c"]
)
def test_a_name_that_is_none_of_the_hub_is_an_error(name: str) -> None:
    with pytest.raises(PermanentError, match="expected hf://OWNER/NAME"):
        model_files.require(name)


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_a_model_of_the_hub_is_downloaded_once_and_no_more_of_it_than_is_needed(
    served: ModelHub, tmp_path: Path, revision: str
) -> None:
    model = f"hf://{NAME}{revision}"
    model_files.require(model)
    assert served.requests == []
    found = model_files.find(model, tmp_path / "models")
    assert found.texts.read_bytes() == served.files["onnx/text_model.onnx"]
    loaded = {path.removeprefix(f"/{NAME}/resolve/{COMMIT}/") for method, path in served.requests if method == "GET"}
    assert "onnx/vision_model.onnx" in loaded
    assert not loaded & {"onnx/model.onnx", "README.md"}
    asked = len(served.requests)
    served.status = 500
    assert model_files.find(model, tmp_path / "models") == found
    assert len(served.requests) == asked


@pytest.mark.parametrize(
    ("status", "expected", "words"),
    [
        (404, PermanentError, "has no model ada/colors"),
        (401, PermanentError, "set HF_TOKEN"),
        (403, PermanentError, "answered 403"),
        (429, TransientError, "429"),
        (503, TransientError, "503"),
    ],
)
def test_what_the_hub_rejects_is_an_error(
    served: ModelHub, tmp_path: Path, status: int, expected: type[Exception], words: str
) -> None:
    served.status = status
    with pytest.raises(expected, match=words):
        model_files.find(f"hf://{NAME}", tmp_path / "models")


def test_a_hub_that_does_not_answer_is_asked_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(TransientError, match="the model ada/colors cannot be downloaded from http"):
        model_files.find(f"hf://{NAME}", tmp_path / "models")


def test_a_repository_without_a_file_of_the_model_is_an_error(served: ModelHub, tmp_path: Path) -> None:
    served.files = {name: body for name, body in served.files.items() if name != "tokenizer.json"}
    with pytest.raises(PermanentError, match=r"tokenizer\.json is missing"):
        model_files.find(f"hf://{NAME}", tmp_path / "models")

"""Models of a few numbers, as ONNX files: written here, field by field (onnx.proto3), and never downloaded."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLOAT, FLOAT16, INT64 = 1, 10, 7
#: Of each color, what a picture of it has in red, green and blue after the preprocessing below.
COLORS = {
    "red": (1.0, -1.0, -1.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
    "yellow": (1.0, 1.0, -1.0),
    "white": (1.0, 1.0, 1.0),
}
PREPROCESSING: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 16},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
#: Sizes of a batch and of images: a name is a size that is free.
Shape = Sequence[int | str]


def field(number: int, value: bytes | str | float) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    body = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def value_info(name: str, kind: int, shape: Shape) -> bytes:
    dims = b"".join(field(1, field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def tensor(name: str, rows: Sequence[Sequence[float]]) -> bytes:
    numbers = [number for row in rows for number in row]
    sizes = field(1, len(rows)) + field(1, len(rows[0]))
    return sizes + field(2, FLOAT) + field(8, name) + field(9, struct.pack(f"<{len(numbers)}f", *numbers))


def external_tensor(name: str, rows: Sequence[Sequence[float]], *, file: str) -> bytes:
    """A tensor whose numbers are in another file, as those of large models are."""
    sizes = field(1, len(rows)) + field(1, len(rows[0]))
    entries = {"location": file, "length": str(4 * len(rows) * len(rows[0]))}
    listed = b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries.items())
    return sizes + field(2, FLOAT) + field(8, name) + listed + field(14, 1)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | list[int]) -> bytes:
    found = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        given = (
            b"".join(field(8, one) for one in value) + field(20, 7)
            if isinstance(value, list)
            else field(3, value) + field(20, 2)
        )
        found += field(5, field(1, name) + given)
    return found


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    weights: Sequence[bytes],
    *,
    operators: int = 13,
) -> bytes:
    graph = b"".join(field(1, one) for one in nodes) + field(2, "tiny")
    for number, listed in ((5, weights), (11, inputs), (12, outputs)):
        graph += b"".join(field(number, one) for one in listed)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, operators))


def image_encoder(
    *,
    shape: Shape = ("batch", 3, "height", "width"),
    name: str = "image_embeds",
    size: int = 3,
    weights: str | None = None,
) -> bytes:
    """The mean color of an image, as `size` numbers of which all but three are 0; an image that is all black is NaN.

    The logarithm of what is brightest is NaN for a black image, and 0 times it is added. `weights` is the name of a
    file that has the numbers of its matrix.
    """
    rows = [[float(at == column) for column in range(size)] for at in range(3)]
    nodes = [
        node("ReduceMean", ["pixel_values"], "mean", axes=[2, 3], keepdims=0),
        node("ReduceMax", ["pixel_values"], "brightest", axes=[1, 2, 3], keepdims=0),
        node("Add", ["brightest", "almost_one"], "above_black"),
        node("Log", ["above_black"], "logarithm"),
        node("Mul", ["logarithm", "zero"], "odd"),
        node("Unsqueeze", ["odd", "last"], "column"),
        node("MatMul", ["mean", "matrix"], "vector"),
        node("Add", ["vector", "column"], name),
    ]
    scalars = [scalar("almost_one", 0.999), scalar("zero", 0.0)]
    last = field(1, 1) + field(2, INT64) + field(8, "last") + field(9, struct.pack("<q", 1))
    return model(
        nodes,
        [value_info("pixel_values", FLOAT, shape)],
        [value_info(name, FLOAT, (shape[0], size))],
        [external_tensor("matrix", rows, file=weights) if weights else tensor("matrix", rows), *scalars, last],
    )


def scalar(name: str, number: float) -> bytes:
    return field(2, FLOAT) + field(8, name) + field(9, struct.pack("<f", number))


def text_encoder(
    vectors: Sequence[Sequence[float]], *, shape: Shape = ("batch", "tokens"), name: str = "text_embeds"
) -> bytes:
    """The mean of the vectors of the tokens of a text."""
    nodes = [
        node("Gather", ["vectors", "input_ids"], "each", axis=0),
        node("ReduceMean", ["each"], name, axes=[1], keepdims=0),
    ]
    return model(
        nodes,
        [value_info("input_ids", INT64, shape)],
        [value_info(name, FLOAT, (shape[0], len(vectors[0])))],
        [tensor("vectors", vectors)],
    )


def probabilities() -> bytes:
    """A model like open_nsfw: the redder an image, the less safe it is."""
    nodes = [
        node("ReduceMean", ["input"], "mean", axes=[1, 2], keepdims=0),
        node("MatMul", ["mean", "matrix"], "both"),
        node("Softmax", ["both"], "output", axis=1),
    ]
    rows = [[0.0, -0.05], [0.0, -0.05], [0.0, 0.1]]
    return model(
        nodes,
        [value_info("input", FLOAT, ("batch", 224, 224, 3))],
        [value_info("output", FLOAT, ("batch", 2))],
        [tensor("matrix", rows)],
    )


def tokenizer() -> str:
    """A tokenizer of words: those of `COLORS`, one that ends each text, and one for all others."""
    words = ["[UNK]", "[END]", *COLORS]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[END]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"[END]": {"id": "[END]", "ids": [1], "tokens": ["[END]"]}},
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(words)}, "unk_token": "[UNK]"},
        }
    )


def vectors(size: int = 3) -> list[list[float]]:
    """The vectors of the tokens: none for those that are no color."""
    found = [[0.0] * size, [0.0] * size, *(list(color) for color in COLORS.values())]
    return [row + [0.0] * (size - len(row)) for row in found]


def write_clip(folder: Path, *, flat: bool = False, **preprocessing: Any) -> Path:
    """Write a model that knows colors in the layout of the hub, and return the folder."""
    encoders = folder if flat else folder / "onnx"
    encoders.mkdir(parents=True, exist_ok=True)
    (encoders / "vision_model.onnx").write_bytes(image_encoder())
    (encoders / "text_model.onnx").write_bytes(text_encoder(vectors()))
    (folder / "tokenizer.json").write_text(tokenizer())
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | preprocessing))
    return folder

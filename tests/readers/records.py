"""Prints what TensorFlow reads from record files, a line of JSON per record.

It is a program, because TensorFlow and PyTorch bring an LLVM each and abort in one process.
"""

import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

_TEXTS = ("image/format", "image/class/text", "image/source_id", "source_url", "license")
_NUMBERS = ("image/width", "image/height", "image/class/label")


def main(arguments: Sequence[str]) -> None:
    """Print the records of all files; files and pixels are in base 64.

    Args:
        arguments: paths, after `--more` and an object with the names and types of further features, where there are.
    """
    import tensorflow as tf  # noqa: PLC0415 - a test reads the name of this file without it

    schema = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image/encoded", *_TEXTS)}
    schema |= {name: tf.io.FixedLenFeature([], tf.int64) for name in _NUMBERS}
    has_more = arguments[:1] == ["--more"]
    more: dict[str, str] = json.loads(arguments[1]) if has_more else {}
    schema |= {name: tf.io.FixedLenFeature([], tf.as_dtype(type_)) for name, type_ in more.items()}
    for path in arguments[2:] if has_more else arguments:
        for record in tf.data.TFRecordDataset(path):
            read = {name: value.numpy() for name, value in tf.io.parse_single_example(record, schema).items()}
            seen = tf.io.decode_image(read["image/encoded"], channels=3).numpy()
            row: dict[str, Any] = {
                "path": path,
                **{name: read[name].decode() for name in _TEXTS},
                **{name: int(read[name]) for name in _NUMBERS},
                **{name: read[name].decode() if more[name] == "string" else read[name].item() for name in more},
                "body": base64.b64encode(read["image/encoded"]).decode(),
                "shape": seen.shape,
                "pixels": base64.b64encode(seen.tobytes()).decode(),
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

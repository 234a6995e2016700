"""A classifier that has a model: it scores several images at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.inspection.crop import Crop

#: RGB images of one size: their number, rows, columns, and three bytes.
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """What the settings of the worker say about models.

    Attributes:
        clip_model: a directory, or a repository of the hub, `hf://owner/name`; None when it is not set.
        models_dir: where models of the hub are kept.
        threads: that a model uses for one batch.
    """

    clip_model: str | None = None
    models_dir: Path = Path(".pixcrawler/models")
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedJob:
    """What a classifier knows of the images that it will get.

    Attributes:
        labels: of the images, no one twice.
        classes: all labels of the job, as far as its keywords say.
        parameters: of the check in the rules.
    """

    labels: Sequence[str] = ()
    classes: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


class BatchClassifier(ABC):
    """A classifier of the images of a chunk, made by `open` in the process that validates them.

    Attributes:
        crop: the part of each image that it gets.
        name: of the score that the check of the classifier is about.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def crop(self) -> Crop:
        """The part of each image that it gets."""

    @classmethod
    @abstractmethod
    def require(cls, config: ClassifierConfig) -> None:
        """Check within milliseconds that what the classifier needs is there: its extra, its settings, its files.

        Raises:
            PermanentError: when something is missing; the message says what to do.
        """

    @classmethod
    @abstractmethod
    def open(cls, config: ClassifierConfig, job: ClassifiedJob) -> Self:
        """Return the classifier for some images of a job. It may take seconds, once for each process.

        Raises:
            PermanentError: when the model is missing, damaged, or of another kind; the message names the file.
            TransientError: when the hub does not answer.
        """

    @abstractmethod
    def scores(self, pixels: Pixels, labels: Sequence[str | None]) -> Sequence[Mapping[str, float]]:
        """Return the scores of each image by their names, that of the check among them.

        An image without a score, because the label that it would be about is not known, has none.

        Args:
            pixels: of the images.
            labels: of the images; None for an image without one.
        """

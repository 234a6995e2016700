"""The scores of all classifiers that the rules of a validation enable."""

from collections.abc import Mapping, Sequence

from pixcrawler_worker.classifiers.protocol import BatchClassifier, ClassifiedJob, ClassifierConfig
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.validate import classifiers
from pixcrawler_worker.validate.batches import BatchScorer
from pixcrawler_worker.validate.classifiers import CLASSIFIERS, Scorer
from pixcrawler_worker.validate.rules import ValidationRules


def require(rules: ValidationRules, settings: Settings) -> None:
    """Check within milliseconds that the classifiers of the rules are installed, and have their models.

    Raises:
        PermanentError: when not; the message names the part of the rules, and says what to do.
    """
    for name in rules.classifiers:
        try:
            CLASSIFIERS.require(name)
        except PermanentError as error:
            raise PermanentError(f"validation_rules.classifiers: {error}") from error
    for name in rules.model_checks():
        try:
            _model(name).require(_config(settings))
        except PermanentError as error:
            raise PermanentError(f"validation_rules.checks.{name}: {error}") from error


class Scorers:
    """The classifiers of a chunk.

    Args:
        functions: classifiers of single images, by name.
        batches: classifiers of several images at a time, by the name of their checks.
        seconds: limit of one call.
    """

    def __init__(
        self,
        functions: Mapping[str, classifiers.Classifier],
        batches: Mapping[str, BatchClassifier],
        *,
        seconds: float,
    ) -> None:
        self._functions = {name: Scorer(one, seconds=seconds) for name, one in functions.items()}
        self._batches = {name: BatchScorer(one, seconds=seconds) for name, one in batches.items()}

    def __bool__(self) -> bool:
        return bool(self._functions or self._batches)

    def close(self) -> None:
        """End the threads of the classifiers."""
        for scorer in self._functions.values():
            scorer.close()
        for batch in self._batches.values():
            batch.close()

    async def scores(self, decoder: Decoder, body: bytes, label: str | None) -> dict[str, float | str]:
        """Return the scores of an image by their names; an error message in place of one that failed.

        Args:
            decoder: opens the image.
            body: the whole file.
            label: of the image; None when it has none.

        Raises:
            TransientError: when no decoder can be started.
        """
        found: dict[str, float | str] = {}
        if self._functions:
            try:
                thumbnail = await decoder.thumbnail(body, side=classifiers.SIDE)
                found |= {name: await scorer.score(thumbnail) for name, scorer in self._functions.items()}
            except RejectedError as error:
                found |= dict.fromkeys(self._functions, f"failed: {error}")
        for name, scorer in self._batches.items():
            try:
                scores = await scorer.score(await decoder.crop(body, scorer.crop), label)
            except RejectedError as error:
                scores = f"failed: {error}"
            found |= {name: scores} if isinstance(scores, str) else scores
        return found


def open_scorers(
    rules: ValidationRules, settings: Settings, *, labels: Sequence[str], classes: Sequence[str], seconds: float
) -> Scorers:
    """Return the classifiers that the rules enable. It may take seconds: a process opens a model once.

    Args:
        rules: of the job.
        settings: of the worker.
        labels: of the images to score, no one twice.
        classes: labels of the job.
        seconds: limit of one call.

    Raises:
        PermanentError: when a classifier is not installed, or its model is missing, damaged or of another kind.
        TransientError: when a model is to be downloaded and the hub does not answer.
    """
    opened = {}
    for name, check in rules.model_checks().items():
        job = ClassifiedJob(labels=labels, classes=classes, parameters=check.model_dump())
        opened[name] = _model(name).open(_config(settings), job)
    return Scorers(classifiers.load(rules.classifiers), opened, seconds=seconds)


def _model(name: str) -> type[BatchClassifier]:
    model: type[BatchClassifier] = CLASSIFIERS.load(name)
    return model


def _config(settings: Settings) -> ClassifierConfig:
    return ClassifierConfig(
        clip_model=settings.clip_model,
        models_dir=settings.data_dir / "models",
        threads=settings.classifier_threads,
    )

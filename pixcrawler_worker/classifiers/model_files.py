"""Where the files of a CLIP model are: in a directory, or in a repository of the hub of Hugging Face."""

import contextlib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pixcrawler_worker.classifiers import preprocessing
from pixcrawler_worker.classifiers.sessions import is_installed, line, require_file
from pixcrawler_worker.errors import PermanentError, TransientError

SETTING = "PIXCRAWLER_CLIP_MODEL"
#: `hf://owner/name`, with a branch, tag or commit after an @.
_REPOSITORY = re.compile(
    r"hf://([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,99}))?/?", re.ASCII
)
#: What it might be meant for without `hf://`.
_PLAIN_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_TOKENIZER = "tokenizer.json"
#: In the order in which they are looked for.
_VARIANTS = ("", "_quantized")
_IMAGES, _TEXTS = "vision_model", "text_model"
IMAGE_ENCODER, TEXT_ENCODER = "the image encoder of a CLIP model", "the text encoder of a CLIP model"
#: What is downloaded of a repository. Large models have their weights in a file of their own.
_PATTERNS = [
    *(f"onnx/{stem}.{ending}" for stem in (_IMAGES, _TEXTS) for ending in ("onnx", "onnx_data")),
    _TOKENIZER,
    preprocessing.FILE,
]
_TOO_MANY, _SERVER_ERROR = 429, 500


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a CLIP model."""

    images: Path
    texts: Path
    tokenizer: Path
    preprocessing: Path

    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes when a file is replaced."""
        paths = (self.images, self.texts, self.tokenizer, self.preprocessing)
        found = [(path, path.stat()) for path in paths]
        return tuple((str(path), status.st_mtime_ns, status.st_size) for path, status in found)


def require(model: str | None) -> None:
    """Check that a model is set, and is there unless it is to be downloaded.

    Raises:
        PermanentError: when not; the message says what to do.
    """
    if model is None:
        raise PermanentError(
            f"no model is set: set {SETTING} to the directory of a CLIP model in ONNX files (onnx/{_IMAGES}.onnx,"
            f" onnx/{_TEXTS}.onnx, {_TOKENIZER}, {preprocessing.FILE}), or to hf://OWNER/NAME to download one, such as"
            " hf://Xenova/clip-vit-base-patch32"
        )
    if model.startswith("hf:"):
        _repository(model)
        if not is_installed("huggingface_hub"):
            raise PermanentError(
                f"{SETTING} is {model}, which needs huggingface_hub: pip install 'pixcrawler-worker[hub]'"
            )
    else:
        in_directory(Path(model))


def find(model: str | None, models_dir: Path) -> ModelFiles:
    """Return the files of a model; one of the hub is downloaded first, unless it was before.

    Raises:
        PermanentError: when a file is missing, or the hub has no such model.
        TransientError: when the hub does not answer.
    """
    require(model)
    assert model is not None
    return in_directory(_downloaded(model, models_dir) if model.startswith("hf:") else Path(model))


def in_directory(directory: Path) -> ModelFiles:
    """Return the files in a directory.

    Raises:
        PermanentError: when it or one of the files is missing.
    """
    try:
        is_there = directory.is_dir()
    except OSError as error:
        raise PermanentError(f"{SETTING}: {directory} cannot be read: {error.strerror}") from error
    if not is_there:
        what = "is a file" if directory.exists() else "is missing"
        hint = f"; write hf://{directory} for a model of the hub" if _PLAIN_NAME.fullmatch(str(directory)) else ""
        raise PermanentError(f"{SETTING}: {directory} {what}: expected the directory of a CLIP model{hint}")
    try:
        found = ModelFiles(
            _encoder(directory, _IMAGES),
            _encoder(directory, _TEXTS),
            directory / _TOKENIZER,
            directory / preprocessing.FILE,
        )
        require_file(found.images, IMAGE_ENCODER)
        require_file(found.texts, TEXT_ENCODER)
        require_file(found.tokenizer, "the tokenizer of the model")
        require_file(found.preprocessing, "the file that says how images are prepared for the model")
    except PermanentError as error:
        raise PermanentError(f"{SETTING}: {error}") from error
    return found


def _encoder(directory: Path, stem: str) -> Path:
    """Return the file of an encoder; where there is none, the one that is expected first."""
    names = [directory / folder / f"{stem}{variant}.onnx" for folder in ("onnx", "") for variant in _VARIANTS]
    return next((path for path in names if path.exists()), names[0])


def _repository(model: str) -> tuple[str, str | None]:
    found = _REPOSITORY.fullmatch(model)
    if found is None or ".." in model or "--" in model:
        raise PermanentError(
            f"{SETTING}: expected hf://OWNER/NAME, or the same with @ and a revision, not {model[:100]!r}"
        )
    return found[1], found[2]


def _downloaded(model: str, models_dir: Path) -> Path:
    """Return the directory of a model of the hub. The token is that of `HF_TOKEN`, the server that of `HF_ENDPOINT`."""
    name, revision = _repository(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - an extra
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

    disable_progress_bars()
    folder = partial(
        snapshot_download, name, revision=revision, cache_dir=models_dir, allow_patterns=_PATTERNS, dry_run=False
    )
    # What was downloaded before is used without a question to the hub: another chunk must not get another model.
    with contextlib.suppress(OSError, ValueError, PermanentError):  # not there, or not all of it
        local = Path(folder(local_files_only=True))
        in_directory(local)
        return local
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        return Path(folder(endpoint=endpoint))
    except Exception as error:
        raise _of_hub(error, f"{name} ({revision})" if revision else name, endpoint or "the hub") from error


def _of_hub(error: Exception, name: str, endpoint: str) -> PermanentError | TransientError:
    """Return the error of the worker for one of the hub's library."""
    from huggingface_hub import errors  # noqa: PLC0415 - it is there: the caller has imported it

    # What it asks first, it reports as a file that is not there.
    met = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
    if isinstance(met, errors.HfHubHTTPError):
        status = met.response.status_code
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            return TransientError(f"{SETTING}: {endpoint} answered {status} to a request for the model {name}")
        return PermanentError(
            f"{SETTING}: {endpoint} has no model {name} that it lets you read: check the name, or set HF_TOKEN"
            f" (it answered {status})"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return PermanentError(f"{SETTING}: the model {name} cannot be stored: {line(error)}")
    return TransientError(f"{SETTING}: the model {name} cannot be downloaded from {endpoint}: {line(error)}")

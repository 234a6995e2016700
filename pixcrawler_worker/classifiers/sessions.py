"""Models in ONNX files: opened once for each process, by ONNX Runtime."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.errors import PermanentError

#: How the small text file begins that Git LFS leaves in place of a large file.
_LFS_POINTER = b"version https://git-lfs"
#: Types of inputs by ONNX Runtime's names.
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
#: Errors only: warnings are about how a model could be faster.
_LOG_ERRORS = 3
_MAX_DETAIL = 300
#: What ONNX Runtime says of a file with the weights of a large model.
_EXTERNAL = "external"
#: What exporters append to the name of a model for that file.
_WEIGHTS = "_data"


class Model:
    """An opened model.

    Args:
        path: of the ONNX file.
        kind: what it should be, for messages.
        threads: that it uses for one batch.

    Raises:
        PermanentError: when the file is missing, damaged, or no model.
    """

    def __init__(self, path: Path, kind: str, *, threads: int) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - an extra

        self.path = path
        self._kind = kind
        _require_whole(path, kind)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if _EXTERNAL in str(error).lower():
                raise PermanentError(
                    f"{path} has its weights in a file of their own, which is missing or not whole: put it into"
                    f" the same directory ({line(error)})"
                ) from error
            raise PermanentError(
                f"{path} cannot be opened as {kind}: it is damaged, or of a version that ONNX Runtime"
                f" {ort.__version__} does not know ({line(error)})"
            ) from error
        self.inputs = {one.name: one for one in self._session.get_inputs()}
        self.outputs = [one.name for one in self._session.get_outputs()]

    def fail(self, why: str) -> PermanentError:
        """Return the error of a file that is no model of the kind that it should be."""
        return PermanentError(f"{self.path} is not {self._kind}: {why}")

    def shape(self, name: str) -> Sequence[int | None]:
        """Return the sizes of an input: None for each that is free."""
        return [size if isinstance(size, int) and size > 0 else None for size in self.inputs[name].shape]

    def run(self, output: str, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return an output for a batch, in single precision.

        A model that was exported for batches of one size gets such ones, the last of them filled up with zeros.
        """
        batch = len(next(iter(inputs.values())))
        fixed = next((size for name in inputs if (size := self.shape(name)[0])), None)
        step = fixed or batch
        found = []
        for first in range(0, batch, step):
            fed = {}
            for name, values in inputs.items():
                part = values[first : first + step].astype(_TYPES[self.inputs[name].type], copy=False)
                missing = step - len(part)
                fed[name] = (
                    np.concatenate([part, np.zeros_like(part, shape=(missing, *part.shape[1:]))]) if missing else part
                )
            (answer,) = self._session.run([output], fed)
            found.append(np.asarray(answer, dtype=np.float32)[: batch - first])
        return np.concatenate(found)

    def require_input(self, name: str, *, dimensions: int, types: Sequence[str]) -> None:
        """Check that an input has so many dimensions, and one of these types of ONNX Runtime.

        Raises:
            PermanentError: when it has not.
        """
        found = self.inputs[name]
        if len(found.shape) != dimensions or found.type not in types:
            raise self.fail(
                f"expected an input {name} of {dimensions} dimensions and of the type {' or '.join(types)},"
                f" got {len(found.shape)} dimensions of {found.type}"
            )


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it was imported in an odd way, or its import is forbidden
        return False


def require_file(path: Path, kind: str) -> None:
    """Check that a file is there.

    Raises:
        PermanentError: when it is not, or cannot be looked at.
    """
    try:
        is_there = path.is_file()
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; expected {kind}") from error
    if not is_there:
        raise PermanentError(f"{path} is missing: expected {kind}")


def _require_whole(path: Path, kind: str) -> None:
    require_file(path, kind)
    begin = _begin(path, kind)
    if not begin:
        raise PermanentError(f"{path} is empty: expected {kind}")
    weights = path.with_name(f"{path.name}{_WEIGHTS}")
    for file in (path, weights):
        if file.is_file() and _begin(file, kind) == _LFS_POINTER:
            raise PermanentError(f"{file} is not {kind}, but a pointer of Git LFS to it: type `git lfs pull` there")


def _begin(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS_POINTER))
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; expected {kind}") from error


def line(error: BaseException) -> str:
    """Return what another library says, in one line."""
    return " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__

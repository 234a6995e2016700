"""Publishing a dataset on the hub of Hugging Face."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pixcrawler_worker.errors import PermanentError, TransientError

#: `hf://owner/name`, also as the hub's own library writes it. Names: huggingface_hub, `validate_repo_id`.
_TARGET = re.compile(r"hf://(?:datasets/)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})/?", re.ASCII)
#: What a dataset on the hub has besides the files that were pushed.
_OF_THE_HUB = frozenset({".gitattributes"})
_TOO_LARGE, _TOO_MANY, _SERVER_ERROR = 413, 429, 500


def repository(target: str) -> str:
    """Return the repository that a target such as `hf://owner/name` names, as `owner/name`.

    Raises:
        PermanentError: when it names none.
    """
    found = _TARGET.fullmatch(target)
    if found is None or ".." in target or "--" in target:
        raise PermanentError(f"expected hf://OWNER/NAME, such as hf://ada/red-pandas, not {target[:100]!r}")
    return found[1]


def push(folder: Path, name: str, *, private: bool, replace: bool) -> str:
    """Upload a folder as a dataset, in one commit: others see all of it or nothing. Return its URL.

    What was uploaded before an interruption is not uploaded again. The token is that of `HF_TOKEN`, or of
    `hf auth login`; the server is that of `HF_ENDPOINT`.

    Args:
        folder: the dataset with its card, `README.md`.
        name: of the repository, `owner/name`; it is created where there is none.
        private: whether a new repository is visible to its owner alone.
        replace: whether files of the repository that are not in the folder are deleted.

    Raises:
        PermanentError: when huggingface_hub is not installed, the hub rejects the upload, or the repository has other
            files and they are not to be replaced.
        TransientError: when the hub does not answer, or is busy.
    """
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 - an extra
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415
    except ImportError:
        raise PermanentError("pushing needs huggingface_hub: pip install 'pixcrawler-worker[hub]'") from None
    # One for each file.
    disable_progress_bars()
    api = HfApi(
        endpoint=os.environ.get("HF_ENDPOINT"), library_name="pixcrawler", library_version=version("pixcrawler-worker")
    )
    with _translated(name, api.endpoint):
        url = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        others = _others(api, name, folder)
        if others and not replace:
            raise PermanentError(
                f"{url} has {len(others)} files that this dataset has not, such as {others[0]}: give --replace to "
                "delete them, or push to another name"
            )
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload the dataset with PixCrawler",
            delete_patterns="*" if others else None,
        )
    return str(url)


def _others(api: Any, name: str, folder: Path) -> list[str]:  # noqa: ANN401 - of a library that may be missing
    """Return the files of a repository that a folder does not have, sorted."""
    ours = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(set(api.list_repo_files(name, repo_type="dataset")) - ours - _OF_THE_HUB)


@contextmanager
def _translated(name: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except (PermanentError, TransientError):
        raise
    except Exception as error:
        # An upload in a thread raises a RuntimeError of what it met.
        met = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
        raise _of_hub(met, name, endpoint) from error


def _of_hub(error: Exception, name: str, endpoint: str) -> PermanentError | TransientError:
    """Return the error of the worker for one of the hub's library."""
    from huggingface_hub import errors  # noqa: PLC0415 - it is there: `push` has imported it

    line = " ".join(str(error).split())[:300]
    if isinstance(error, errors.HfHubHTTPError):
        status, said = error.response.status_code, " ".join((error.server_message or line).split())[:300]
        if status in (401, 403):
            return PermanentError(
                f"{endpoint} does not let you write {name}: set HF_TOKEN to a token with write access, or type "
                f"hf auth login ({said})"
            )
        if status == _TOO_LARGE:
            return PermanentError(
                f"{endpoint} takes no files of this size, or has no room for them: export smaller images with "
                f"--resize, or make room there ({said})"
            )
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            what = "limits requests" if status == _TOO_MANY else "has an error"
            return TransientError(
                f"{endpoint} {what} ({status}): type the same command later, and it uploads what is missing ({said})"
            )
        return PermanentError(f"{endpoint} rejected {name} with {status}: {said}")
    if isinstance(error, (errors.HTTPError, TimeoutError, ConnectionError)):  # type: ignore[attr-defined]  # of its client
        return TransientError(f"{endpoint} does not answer: {line}")
    return PermanentError(f"{name} could not be pushed: {line}")

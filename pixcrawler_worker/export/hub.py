"""Publishing a dataset on the hub of Hugging Face."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from pixcrawler_worker.domain.stored_json import quoted
from pixcrawler_worker.errors import PermanentError, TransientError

#: `hf://owner/name`, also as the hub's own library writes it. Names: huggingface_hub, `validate_repo_id`.
_TARGET = re.compile(r"hf://(?:datasets/)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})/?", re.ASCII)
#: What a dataset on the hub has besides the files that were pushed.
_OF_THE_HUB = frozenset({".gitattributes"})
#: Files that the hub takes in one commit. Source: huggingface_hub, `HfApi.create_commit`.
_MAX_FILES = 25_000
_CHANGED, _TOO_LARGE, _TOO_MANY, _SERVER_ERROR = 412, 413, 429, 500


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
        PermanentError: when huggingface_hub is not installed, the folder has too many files, the hub rejects the
            upload, the repository is public although `private` is given, or it has other files that are not replaced.
        TransientError: when the hub does not answer, is busy, or has got another commit meanwhile.
    """
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if len(paths) > _MAX_FILES:
        raise PermanentError(
            f"the dataset has {len(paths):,} files, and the hub takes up to {_MAX_FILES:,} at once: push an export "
            "with the layout parquet, which has few files"
        )
    _check_variables()
    try:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # noqa: PLC0415 - an extra
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415
    except ImportError:
        raise PermanentError("pushing needs huggingface_hub: pip install 'pixcrawler-worker[hub]'") from None
    # One for each file.
    disable_progress_bars()
    # Its warnings have presigned URLs of uploads, and say of each request that it is tried again.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    api = HfApi(endpoint=endpoint, library_name="pixcrawler", library_version=version("pixcrawler-worker"))
    with _translated(name, api.endpoint):
        url = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        before = api.repo_info(name, repo_type="dataset")
        if private and not before.private:
            raise PermanentError(
                f"{url} exists and is public, and --private is for a new dataset: make it private on the hub, or leave "
                "out --private"
            )
        there = set(api.list_repo_files(name, repo_type="dataset", revision=before.sha)) - _OF_THE_HUB
        others = sorted(there - set(paths))
        if others and not replace:
            count = "1 file" if len(others) == 1 else f"{len(others):,} files"
            raise PermanentError(
                f"{url} has {count} that this dataset has not, such as {others[0]}: give --replace to delete what it "
                "has not, or push to another name"
            )
        files = [CommitOperationAdd(path, folder / path) for path in paths]
        # Without this, the hub leaves out what a .gitignore of the repository names.
        api.preupload_lfs_files(name, files, repo_type="dataset", free_memory=False, gitignore_content="")
        # `upload_folder` makes several commits of many files. The parent is the commit that has no other files: when
        # another push has been faster, the hub rejects this one.
        api.create_commit(
            name,
            [*(CommitOperationDelete(path, is_folder=False) for path in others), *files],
            repo_type="dataset",
            commit_message="Upload the dataset with PixCrawler",
            parent_commit=before.sha,
        )
    return str(url)


def _check_variables() -> None:
    """Raise PermanentError when the address of the hub or the token cannot be used, which its library says badly."""
    endpoint, token = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN", "")
    if endpoint:
        try:
            parts = urlsplit(endpoint)
            is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            raise PermanentError(f"HF_ENDPOINT: expected a URL such as https://huggingface.co, got {quoted(endpoint)}")
    if not (token.isascii() and token.strip().isprintable()):
        raise PermanentError("HF_TOKEN has characters that no token has: copy it again from the settings of the hub")


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
        said = " ".join((error.server_message or line).split())[:300]
        return _of_status(error.response.status_code, said, name, endpoint)
    if isinstance(error, (errors.HTTPError, TimeoutError, ConnectionError)):  # type: ignore[attr-defined]  # of its client
        return TransientError(f"{endpoint} does not answer: {line}")
    return PermanentError(f"{name} could not be pushed: {line}")


def _of_status(status: int, said: str, name: str, endpoint: str) -> PermanentError | TransientError:
    """Return the error of the worker for a response of the hub."""
    if status in (401, 403):
        return PermanentError(
            f"{endpoint} does not let you write {name}: set HF_TOKEN to a token with write access, or type "
            f"hf auth login ({said})"
        )
    if status == _CHANGED:
        return TransientError(
            f"{name} was changed on {endpoint} while this was uploaded: type the same command again ({said})"
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

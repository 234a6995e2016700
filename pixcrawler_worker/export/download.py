"""Downloading the files of an export into a local folder, and verifying their checksums."""

import asyncio
import contextlib
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import plan
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.failures import FileMissingError

_BLOCK = 1 << 20
_CHECKSUMS = "SHA256SUMS"


def require_empty(folder: Path) -> None:
    """Check that a folder is empty or does not exist yet.

    Raises:
        PermanentError: when it is not empty, or cannot be read.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise PermanentError(f"{folder} is not empty: name an empty folder, or one that does not exist yet")
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


def fetch(runtime: Runtime, export: ExportView, folder: Path) -> list[Path]:
    """Download all files of an export into a folder and return their paths. On failure, delete what was downloaded.

    Raises:
        PermanentError: when the folder is not empty, a file is missing, or the checksum of an archive differs.
        TransientError: when the storage does not respond.
    """
    require_empty(folder)
    digests = {part["name"]: part["sha256"] for part in export.result.get("parts", [])}
    try:
        with all_or_nothing(folder):
            return runtime.run(_fetch_all(runtime, export, folder, digests))
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error
    except FileMissingError as error:
        gone = f"export {export.id} is gone from storage: it expired, or its row was deleted. Export once more"
        raise PermanentError(gone) from error


@contextlib.contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """Create a folder, and delete its content if the context ends with an exception: half a dataset looks complete.

    A folder that did not exist before is deleted as well.

    Raises:
        PermanentError: when it cannot be created.
    """
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error
    try:
        yield
    except BaseException:
        _remove(folder, itself=fresh)
        raise


async def _fetch_all(runtime: Runtime, export: ExportView, folder: Path, digests: dict[str, str]) -> list[Path]:
    paths = []
    for name in export.result.get("files", []):
        path = folder / PurePosixPath(name).name
        digest = hashlib.sha256()
        with path.open("xb") as file:
            async for block in runtime.storage.blocks(plan.key(export.id, name)):
                await asyncio.to_thread(_take, block, file, digest.update)
        if name in digests and digest.hexdigest() != digests[name]:
            raise PermanentError(f"{name} is not the file that export {export.id} wrote: its SHA-256 differs")
        paths.append(path)
    return paths


def _take(block: bytes, file: IO[bytes], update: Callable[[bytes], None]) -> None:
    update(block)
    file.write(block)


def unpack(archive: Path, folder: Path, *, wrote: Callable[[int], None] = lambda _: None) -> int:
    """Unpack a ZIP of an export into a folder and verify its SHA256SUMS; return the number of files.

    Args:
        archive: the ZIP.
        folder: an existing folder, which may have files of other parts.
        wrote: called with the number of files so far.

    Raises:
        PermanentError: when a file is damaged, not listed or outside of the folder, or the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            listed = dict(_checksums(packed))
            for number, entry in enumerate(packed.infolist(), 1):
                _unpack_one(packed, entry, folder, listed)
                wrote(number)
            return len(packed.infolist())
    except zipfile.BadZipFile as error:
        raise PermanentError(f"{archive.name} is damaged: {error}") from error
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


def _checksums(packed: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for name in packed.namelist():
        if name.startswith(_CHECKSUMS):
            for line in packed.read(name).decode().splitlines():
                digest, _, path = line.partition("  ")
                yield path, digest


def _unpack_one(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, listed: dict[str, str]) -> None:
    parts = PurePosixPath(entry.filename).parts
    if not parts or entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
        raise PermanentError(f"{entry.filename!r} is outside of {folder}")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with packed.open(entry) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            _take(block, file, digest.update)
    if listed and not entry.filename.startswith(_CHECKSUMS) and listed.get(entry.filename) != digest.hexdigest():
        raise PermanentError(
            f"{entry.filename} is not the file that was exported: its SHA-256 differs from {_CHECKSUMS}"
        )


def _remove(folder: Path, *, itself: bool) -> None:
    """Delete the content of a folder, and the folder itself if `itself`. Ignore what cannot be deleted."""
    if itself:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

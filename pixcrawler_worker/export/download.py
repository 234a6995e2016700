"""Use case: the files of an export in a folder of this machine, checked against the digests written with them."""

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
_SUMS = "SHA256SUMS"


def require_empty(folder: Path) -> None:
    """Return when a dataset can be written there: the folder is empty, or does not exist yet.

    Raises:
        PermanentError: when it has something in it, or cannot be looked into.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise PermanentError(f"{folder} is not empty: name a folder that is, or does not exist yet")
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


def fetch(runtime: Runtime, export: ExportView, folder: Path) -> list[Path]:
    """Copy an export's files from storage into a folder, all of them or none; return their paths.

    Raises:
        PermanentError: when the folder has something in it, an archive is not the one that was written, or is gone.
        TransientError: when the storage does not answer.
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
    """Make a folder that is written in the context, and unless that ends well, empty it: half a dataset looks whole.

    A folder that was not there before goes, too.

    Raises:
        PermanentError: when it cannot be made.
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
    """Unpack a ZIP of an export into a folder, each file checked against its SHA256SUMS; return how many there were.

    Args:
        archive: the ZIP.
        folder: exists; what it has of other parts stays.
        wrote: told the number of files so far.

    Raises:
        PermanentError: when a file is damaged, not listed or would lie elsewhere, or the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            listed = dict(_sums(packed))
            for number, entry in enumerate(packed.infolist(), 1):
                _unpack_one(packed, entry, folder, listed)
                wrote(number)
            return len(packed.infolist())
    except zipfile.BadZipFile as error:
        raise PermanentError(f"{archive.name} is damaged: {error}") from error
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


def _sums(packed: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for name in packed.namelist():
        if name.startswith(_SUMS):
            for line in packed.read(name).decode().splitlines():
                digest, _, path = line.partition("  ")
                yield path, digest


def _unpack_one(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, listed: dict[str, str]) -> None:
    parts = PurePosixPath(entry.filename).parts
    if not parts or entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
        raise PermanentError(f"{entry.filename!r} would lie outside of {folder}")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with packed.open(entry) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            _take(block, file, digest.update)
    if listed and not entry.filename.startswith(_SUMS) and listed.get(entry.filename) != digest.hexdigest():
        raise PermanentError(f"{entry.filename} is not the file that was exported: its SHA-256 differs from {_SUMS}")


def _remove(folder: Path, *, itself: bool) -> None:
    """Delete what is in a folder, and the folder itself if asked to; what cannot be deleted stays."""
    if itself:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""Downloading the files of an export into a local folder, and verifying their checksums."""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import plan
from pixcrawler_worker.export.archive_formats import END, LOCATOR_BYTES, MAX_ENTRIES
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.failures import FileMissingError

_BLOCK = 1 << 20
_CHECKSUMS = "SHA256SUMS"
#: Its names: an archive of several has the number of its part.
_CHECKSUMS_NAME = re.compile(rf"{_CHECKSUMS}(?:-part-[0-9]{{5,10}})?")
#: Limits in bytes: of an entry in the list of files of a ZIP (a path has at most 200), and of a line of checksums.
_MAX_ENTRY_BYTES, _MAX_LINE_BYTES = 256, 300
#: The bit of a ZIP's flags that says that a file is encrypted.
_ENCRYPTED = 1
#: Characters of a path in an archive (`Entry.path`).
_MAX_PATH = 200


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
        gone = (
            f"export {export.id} is gone from storage: it expired, or its row was deleted. Export once more: "
            f"pixcrawler export {export.crawl_id} --watch"
        )
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
        # It is of a row, in which another program may have written anything.
        if not isinstance(name, str) or name in {"", ".", ".."} or PurePosixPath(name).name != name:
            raise PermanentError(f"export {export.id} has a file with an invalid name: {str(name)[:_MAX_PATH]!r}")
        path = folder / name
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
        PermanentError: when the ZIP is damaged or not one of an export, a file in it is damaged, not listed or outside
            of the folder, or the folder cannot be written.
    """
    try:
        with _opened(archive) as packed:
            listed = _checksums(packed)
            for number, entry in enumerate(packed.infolist(), 1):
                _unpack_one(packed, entry, folder, listed)
                wrote(number)
            return len(packed.infolist())
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error}") from error


def entries(archive: Path) -> int:
    """Return the number of files in a ZIP of an export. Raises as `unpack`."""
    with _opened(archive) as packed:
        return len(packed.infolist())


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP as exports write it, in which files take no more bytes than the ZIP has.

    Raises:
        PermanentError: when it is damaged, or no export wrote it.
    """
    try:
        _check_directory(archive)
        with zipfile.ZipFile(archive) as packed:
            found = packed.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED for entry in found):
                raise PermanentError(f"{archive.name} is not an archive of an export: its files are compressed")
            if len({entry.filename for entry in found}) < len(found):
                raise PermanentError(f"{archive.name} is not an archive of an export: it has a file twice")
            if any(len(entry.filename) > _MAX_PATH for entry in found):
                raise PermanentError(f"{archive.name} is not an archive of an export: it has a path that is too long")
            # Files that share their bytes could be a thousand times as large as the archive.
            if sum(entry.file_size for entry in found) > archive.stat().st_size:
                raise PermanentError(f"{archive.name} is damaged: its files are larger than the archive")
            yield packed
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, struct.error) as error:
        raise PermanentError(f"{archive.name} is damaged: {error}") from error


def _check_directory(archive: Path) -> None:
    """Check the size of the list of files in a ZIP, all of which is read into memory."""
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOCATOR_BYTES - END.size))
        tail = file.read()
    end = tail[-END.size :]
    if len(end) < END.size or not end.startswith(b"PK\5\6") or tail[: -END.size].startswith(b"PK\6\7"):
        raise zipfile.BadZipFile("it has no end as an export writes it")
    _, _, _, _, count, listed, _, _ = END.unpack(end)
    if count > MAX_ENTRIES or listed > MAX_ENTRIES * _MAX_ENTRY_BYTES:
        raise zipfile.BadZipFile("its list of files is too long")


def _checksums(packed: zipfile.ZipFile) -> dict[str, str] | None:
    """Return the checksums of the files that are there, by their paths; None when the archive has no list of them."""
    there = set(packed.namelist())
    listed: dict[str, str] | None = None
    for entry in packed.infolist():
        if _CHECKSUMS_NAME.fullmatch(entry.filename):
            if entry.file_size > MAX_ENTRIES * _MAX_LINE_BYTES:
                raise PermanentError(f"{entry.filename} is too long")
            listed = {} if listed is None else listed
            with packed.open(entry) as file:
                while line := file.readline(_MAX_LINE_BYTES):
                    digest, _, path = line.decode("ascii", "replace").rstrip("\n").partition("  ")
                    # Of others, a list could take twenty times as much memory as it has bytes.
                    if path in there:
                        listed[path] = digest
    return listed


def _unpack_one(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, listed: dict[str, str] | None) -> None:
    parts = PurePosixPath(entry.filename).parts
    if not parts or entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
        raise PermanentError(f"{entry.filename!r} is outside of {folder}")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    # In place of what is there, and not through a link.
    target.unlink(missing_ok=True)
    with packed.open(entry) as source, target.open("xb") as file:
        while block := source.read(_BLOCK):
            _take(block, file, digest.update)
    is_list = _CHECKSUMS_NAME.fullmatch(entry.filename) is not None
    if listed is not None and not is_list and listed.get(entry.filename) != digest.hexdigest():
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

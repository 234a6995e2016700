"""Downloading the dataset of an export into a folder, with progress."""

from collections.abc import Callable
from pathlib import Path

from pixcrawler_worker.cli import console
from pixcrawler_worker.db.job_views import ExportView
from pixcrawler_worker.export import croissant, download, publisher
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime


def fetch(runtime: Runtime, export: ExportView, folder: Path) -> None:
    """Download the files of an export into a folder, and unpack its ZIP archives there.

    Raises:
        PermanentError: when the folder is not empty, a file is missing, damaged, or cannot be written.
        TransientError: when the storage does not respond.
    """
    with console.out.status("downloading the dataset"):
        files = download.fetch(runtime, export, folder)
    if export.format != ExportFormat.ZIP:
        return
    archives = [path for path in files if path.suffix == ".zip"]
    sizes = [download.entries(archive) for archive in archives]
    with console.progress_bar("unpacking", sum(sizes)) as update:
        for position, archive in enumerate(archives):
            download.unpack(archive, folder, wrote=_added_to(sum(sizes[:position]), update))
            archive.unlink()
    # They describe the archives, which are unpacked and removed.
    for name in (croissant.NAME, publisher.MANIFEST):
        (folder / name).unlink(missing_ok=True)


def _added_to(start: int, update: Callable[[int], None]) -> Callable[[int], None]:
    return lambda count: update(start + count)

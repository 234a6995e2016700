"""Writing the page of a job to a file: whole, or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pixcrawler_worker.browse import content, document, thumbnails
from pixcrawler_worker.browse.content import Browsed, Thumbnails
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

#: Images of a page up to which it has larger ones, too: 45 MB of them.
_MAX_PREVIEWS = 1_000
#: Images of a page: a browser reads 300 MB of them.
_MAX_IMAGES = 50_000


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """A page that was written.

    Attributes:
        path: of the file.
        images: of the job.
        missing: images without a thumbnail.
        size: bytes of the file.
    """

    path: Path
    images: int
    missing: int
    size: int


def write(runtime: Runtime, found: Browsed, path: Path, *, show: Callable[[int], None] = lambda _: None) -> WrittenPage:
    """Write the page of a job. A missing directory is created, an earlier file replaced.

    Args:
        runtime: connects to storage and decoder.
        found: the job with its images.
        path: of the file.
        show: called with the number of images whose thumbnails are done.

    Raises:
        PermanentError: when there are too many images for a file, or it cannot be written.
        TransientError: when the storage does not respond.
    """
    if len(found.images) > _MAX_IMAGES:
        raise PermanentError(
            f"a page in one file has at most {_MAX_IMAGES:,} images, and job {found.job.id} has {len(found.images):,}: "
            f"look at it with pixcrawler browse {found.job.id} --serve"
        )
    try:
        target = path.resolve()  # of a link, the file that it leads to is replaced
        if target.exists() and not target.is_file():
            raise PermanentError(f"{path} cannot be written: it is not a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent) as spool:
            made = Thumbnails()
            # The data of the page come before its thumbnails, so that it is there before they are read, and are
            # complete after them.
            runtime.run(_write_thumbnails(runtime, found, made, spool, show))
            head = document.head(f"Images: {found.job.name}", content.to_json(found, made), served=False)
            spool.seek(0)
            with _replacing(target) as file:
                file.write(head.encode(errors="replace"))
                shutil.copyfileobj(spool, file, 1024 * 1024)
                file.write(document.END)
                size = file.tell()
    except (FileExistsError, NotADirectoryError) as error:
        raise PermanentError(f"{path} cannot be written: a part of its path is a file") from error
    except OSError as error:
        # The file of the error may be a temporary one.
        raise PermanentError(f"{path} cannot be written: {error.strerror or error}") from error
    return WrittenPage(path, len(found.images), len(made.reasons), size)


async def _write_thumbnails(
    runtime: Runtime, found: Browsed, made: Thumbnails, spool: BinaryIO, show: Callable[[int], None]
) -> None:
    with_previews = len(found.images) <= _MAX_PREVIEWS
    stored = [(image.record.id, image.record.storage_url) for image in found.images]
    done = 0
    async with aclosing(thumbnails.sheets(runtime, stored, with_previews=with_previews)) as sheets:
        async for page in sheets:
            if page.sheet:
                number = len(made.sizes)
                spool.write(document.image(f"sheet-{number}", page.sheet))
                made.sizes.append(len(page.cells))
                made.tiles |= {image_id: (number, cell) for image_id, cell in page.cells.items()}
            spool.writelines(
                document.image(f"preview-{image_id}", preview) for image_id, preview in page.previews.items()
            )
            made.reasons |= page.reasons
            done += len(page.cells) + len(page.reasons)
            show(done)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another one when the context ends without an error, and is removed else."""
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    file = os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb")
    try:
        with file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

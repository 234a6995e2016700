"""A storage that is read only or full, or from which files disappear."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from chaos.faults.catalog import Arena, SkippedError, fault


@fault("read only", "storage", alone="storage")
def make_read_only(arena: Arena) -> None:
    if not arena.storage.mounted:
        raise SkippedError("the storage is no file system of its own: only root may mount one")
    for _ in range(50):
        if arena.storage.set_read_only(True):
            break
        arena.hold(0.02)
    else:
        raise SkippedError("a file is always open")
    try:
        arena.hold(arena.between(0.5, 2.5))
    finally:
        arena.storage.set_read_only(False)


@fault("full", "storage", alone="storage")
def fill(arena: Arena) -> None:
    if not arena.storage.mounted:
        raise SkippedError("the storage is no file system of its own: only root may mount one")
    arena.storage.set_full(True)
    try:
        arena.hold(arena.between(0.5, 2.5))
    finally:
        arena.storage.set_full(False)


@fault("files removed", "storage")
def remove_files(arena: Arena) -> None:
    """Remove some images of a job that is set apart, while it is validated or exported."""
    group = arena.load.claim("validation", "files removed") or arena.load.claim("export", "files removed")
    if group is None:
        raise SkippedError("no job that is set apart has images")
    arena.load.settle(group, "failed")
    with arena.database.connect("chaos fault") as connection:
        rows = connection.execute(
            "SELECT storage_url FROM images WHERE crawl_job_id = %s ORDER BY random() LIMIT 10", (group.jobs["crawl"],)
        ).fetchall()
    for (url,) in rows:
        arena.load.removed.add(url)
        Path(unquote(urlsplit(url).path)).unlink(missing_ok=True)

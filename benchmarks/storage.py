"""Storing images in a folder: a crawl's writes beside plain system calls and other ways to keep an event loop free.

python benchmarks/storage.py [--images 2000] [--bytes 114000] [--folder /tmp] [--runs 5] [--write]
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import frame
from frame import Run
from obstore.store import LocalStore

from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.local import LocalFolder

#: Images that are stored at a time, as in a crawl.
_CONCURRENCY = 32

Put = Callable[[str, bytes], Awaitable[object]]


def stored(folder: Path, bodies: list[bytes], put_into: Callable[[Path], Put]) -> Run:
    """Store all images in a new folder, which is deleted."""
    target = Path(tempfile.mkdtemp(dir=folder))
    put = put_into(target)
    waiting = iter(enumerate(bodies))

    async def next_ones() -> None:
        for number, body in waiting:
            await put(f"crawl_jobs/1/cat/{number}.jpg", body)

    async def run() -> Run:
        with frame.own_cpu() as usage:
            await asyncio.gather(*(next_ones() for _ in range(_CONCURRENCY)))
        return usage.run(len(bodies))

    try:
        return asyncio.run(run())
    finally:
        shutil.rmtree(target)


def storage(folder: Path) -> Put:
    """Return the storage of a worker."""
    return Storage(folder.as_uri()).put


def thread_each(folder: Path) -> Put:
    """Return the same writes in a thread for each image, as they were before."""
    files = LocalFolder(folder)

    async def put(key: str, body: bytes) -> None:
        await asyncio.to_thread(files.write_all, [(key.split("/"), body)])

    return put


def object_store(folder: Path) -> Put:
    """Return obstore's local store, which the worker used once."""
    return LocalStore(folder).put_async


def plain(folder: Path) -> Put:
    """Return open, write and rename in the event loop, without a look at links."""

    async def put(key: str, body: bytes) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(body)
        part.rename(path)

    return put


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=114_000, help="size of an image")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the file system to write to"
    )
    args = parser.parse_args()
    bodies = [os.urandom(args.bytes) for _ in range(16)] * (args.images // 16)
    ways: dict[str, Callable[[Path], Put]] = {
        "storage of a worker": storage,
        "a thread for each image": thread_each,
        "obstore": object_store,
        "plain, in the event loop": plain,
    }
    runs = frame.alternate({name: partial(stored, args.folder, bodies, way) for name, way in ways.items()}, args.runs)
    frame.publish(
        frame.Topic("storage", "images", "plain, in the event loop", "Storing images in a folder", ("obstore",)),
        runs,
        write=args.write,
        notes=[f"{len(bodies):,} files of {args.bytes:,} bytes, {_CONCURRENCY} at a time."],
    )


if __name__ == "__main__":
    main()

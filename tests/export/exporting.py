"""Running export jobs in this process, and reading what they wrote."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import factories
import ledger
import numpy as np
from PIL import Image

from pixcrawler_worker.db import images
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import CrawlJob, ExportJob, Project
from pixcrawler_worker.domain import splits
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime


def image_bytes(number: int, kind: str = "JPEG", size: tuple[int, int] = (96, 72), **options: Any) -> bytes:
    """Return an image file; images of different numbers do not look alike."""
    chance = np.random.default_rng(number)
    small = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    written = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(written, kind, **options)
    return written.getvalue()


@dataclass(frozen=True)
class StoredImage:
    """An image as a crawl stores it."""

    body: bytes
    label: str = "cat"
    url: str = ""
    credit: Credit = field(default_factory=Credit)
    caption: str | None = None
    columns: Mapping[str, object] | None = None


def crawl_of(runtime: Runtime, stored: Sequence[StoredImage], *, status: str = "completed", **values: Any) -> int:
    """Create a crawl job that has ended, with these images in this order."""
    values = {"max_images": 10_000, "valid_images": len(stored)} | values
    job_id = factories.make_job(runtime.sessions, status=status, **values)
    add(runtime, job_id, stored)
    return job_id


def add(runtime: Runtime, job_id: int, stored: Sequence[StoredImage]) -> None:
    """Store images as a crawl does."""
    found = []
    for one in stored:
        facts = inspect_bytes(one.body, Limits())
        name = f"{facts.sha256.hex()}.{facts.format}"
        key = f"crawl_jobs/{job_id}/{slug(one.label)}/{name}"
        runtime.run(runtime.storage.put(key, one.body))
        url = one.url or f"https://example.org/{facts.sha256.hex()}"
        found.append(
            NewImage(
                url=url,
                url_hash=url_hash(url),
                filename=name,
                storage_url=runtime.storage.url(key),
                facts=facts,
                label=one.label,
                query=one.label,
                source="shelf",
                credit=one.credit,
                caption=one.caption,
                columns=one.columns,
            )
        )
    with runtime.sessions.begin() as session:
        assert len(images.insert_new(session, job_id, found)) == len(stored)
    # A constant time, so that the same images give the same bytes.
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.image_facts SET crawled_at = '2026-01-02T03:04:05Z'")


def digest(body: bytes) -> str:
    """Return the name of the file of an image that is exported unchanged, without its extension."""
    return hashlib.sha256(body).hexdigest()


def make_export(runtime: Runtime, crawl_job_id: int, options: object = None, *, format_: str = "zip") -> JobRef:
    """Create a pending export job."""
    with runtime.sessions.begin() as session:
        owner = session.get_one(Project, session.get_one(CrawlJob, crawl_job_id).project_id).user_id
        job = ExportJob(
            crawl_job_id=crawl_job_id,
            user_id=owner,
            name="My images",
            format=format_,
            export_options={} if options is None else options,
        )
        session.add(job)
    return JobRef(EXPORT_JOBS, job.id)


def drive(runtime: Runtime, messages: Iterable[ChunkMessage]) -> None:
    """Run chunks one after the other, with the chunks that follow from them."""
    waiting = deque(messages)
    while waiting:
        waiting.extend(executor.run(runtime, EXPORT, waiting.popleft().chunk_id))


def export(runtime: Runtime, crawl_job_id: int, options: object = None, *, format_: str = "zip") -> JobRef:
    """Create an export job and run it to its end."""
    ref = make_export(runtime, crawl_job_id, options, format_=format_)
    drive(runtime, submission.start(runtime, EXPORT, ref.id))
    return ref


def row(runtime: Runtime, ref: JobRef) -> ExportJob:
    with runtime.sessions.begin() as session:
        return session.get_one(ExportJob, ref.id)


def stored_images(count: int, *, first: int = 0, **values: Any) -> list[StoredImage]:
    """Return different images as a crawl stores them."""
    return [StoredImage(image_bytes(number), **values) for number in range(first, first + count)]


#: The files of an export that fits into one archive.
ALONE = {"my-images.zip", "croissant.json"}


def position(sha256: str, *, seed: int = 0) -> int:
    """Return the position of an image without near duplicates, by the formula of `domain/splits.py`."""
    return int(hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest()[:16], 16)


def split_of(sha256: str, ratios: Mapping[str, float], *, seed: int = 0) -> str:
    """Return the split of an image without near duplicates."""
    place = position(sha256, seed=seed)
    return list(ratios)[sum(place >= bound for bound in splits.bounds(ratios)[:-1])]


def expire(runtime: Runtime, ref: JobRef, *, ago: str = "1 s") -> None:
    """Make an export expired since that time."""
    ledger.execute(
        runtime.sessions, f"UPDATE export_jobs SET expires_at = now() - interval '{ago}' WHERE id = :id", id=ref.id
    )


def files(runtime: Runtime, ref: JobRef) -> dict[str, bytes]:
    """Return the files of an export in storage, by name."""

    async def read() -> dict[str, bytes]:
        prefix = f"exports/{ref.id}/"
        keys = runtime.storage.keys(prefix, unfinished=True)
        return {key.removeprefix(prefix): await runtime.storage.get(key) async for key in keys}

    return runtime.run(read())


def unzipped(archive: bytes) -> dict[str, bytes]:
    """Return the files of a ZIP. Assert that names are unique and files undamaged."""
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        assert packed.testzip() is None
        names = packed.namelist()
        assert len(names) == len(set(names))
        return {name: packed.read(name) for name in names}


def untarred(archive: bytes) -> dict[str, bytes]:
    """Return the files of a tar. Assert that names are unique."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        for entry in packed:
            file = packed.extractfile(entry)
            assert file is not None
            assert entry.name not in found
            found[entry.name] = file.read()
    return found


def made(runtime: Runtime, ref: JobRef) -> dict[str, bytes]:
    """Return the files of the only archive of an export."""
    (archive,) = (body for name, body in files(runtime, ref).items() if name.endswith(".zip"))
    return unzipped(archive)


def metadata_rows(archive: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return the rows of all metadata files, with the paths of their images in the archive."""
    rows = []
    for path, body in archive.items():
        folder, _, name = path.rpartition("/")
        if name == "metadata.jsonl":
            for line in body.decode().splitlines():
                found = json.loads(line)
                rows.append(found | {"path": f"{folder}/{found['file_name']}" if folder else found["file_name"]})
    return rows

"""`pixcrawler demo`."""

import contextlib
import csv
import functools
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from pixcrawler_worker import client, registry, settings
from pixcrawler_worker.cli import console, delivery, job_watch, local_service, new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.cli.delivery import Delivery
from pixcrawler_worker.cli.local_service import LocalService
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.jobs import submission

#: The images inside the scikit-image wheel, by label.
_SAMPLES: Mapping[str, tuple[str, ...]] = {
    "animal": ("chelsea.png", "horse.png"),
    "person": ("astronaut.png", "camera.png"),
    "space": ("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "texture": ("brick.png", "grass.png", "gravel.png"),
    "microscopy": ("cell.png", "ihc.png", "microaneurysms.png", "retina.jpg"),
    "thing": ("coffee.png", "coins.png", "clock_motion.png", "motorcycle_left.png", "motorcycle_right.png"),
    "page": ("page.png", "text.png", "logo.png"),
}
_MAX_IMAGES = 1000
#: Rows of the dataset's table that are printed.
_MAX_ROWS = 8
#: Characters of a file name that are printed: enough to find the file.
_NAME_LENGTH = 32


@click.command()
@click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory of images with one subdirectory per label.  [default: the samples of scikit-image]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for the dataset, new or empty.",
)
def demo(*, folder: Path | None, out: Path | None) -> None:
    """Run sample images through the whole service: PostgreSQL, Redis, web server, worker processes, HTML reports.

    Works offline. All processes are stopped at the end; the dataset is kept.
    """
    data_dir = settings.load().data_dir / "demo"
    os.environ.pop("PIXCRAWLER_STORAGE_URL", None)
    with contextlib.ExitStack() as stack:
        gallery = folder or _samples(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pixcrawler-"))))
        index = _index(gallery)
        count = sum(map(len, index.values()))
        console.out.print(f"{count} candidates with {len(index)} labels from {gallery if folder else 'scikit-image'}")
        service = stack.enter_context(
            local_service.running(
                data_dir,
                allow_fake=True,
                concurrency=2,
                PIXCRAWLER_DATA_DIR=str(data_dir),
                PIXCRAWLER_GALLERY_URL=stack.enter_context(_served(gallery, index)),
                PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8",
                PIXCRAWLER_SWEEP_SECONDS="1",
            )
        )
        _cancel(service)
        job = _crawl(service, sorted(index), min(count, _MAX_IMAGES))
        target = out or data_dir / f"dataset-{job.id}"
        export = delivery.deliver(
            service.runtime,
            job,
            target,
            Delivery(ExportFormat.ZIP, {}),
            check=service.check,
            resume="Start over: pixcrawler demo",
        )
    if export is None:
        sys.exit(1)
    _print_sample(target)
    paths = {
        "dataset": target.resolve(),
        "crawl report": (target / "report.html").resolve(),
        "validation report": (target / "quality.html").resolve(),
        "worker log": service.log.resolve(),
    }
    console.out.print("\n" + "\n".join(f"{name:<19}{path}" for name, path in paths.items()), soft_wrap=True)
    if job.status != JobStatus.COMPLETED:
        sys.exit(1)


def _cancel(service: LocalService) -> None:
    """Cancel the jobs of demos that were interrupted: what served their images is gone."""
    if not service.is_shared:
        for job in service.left:
            ref = job.table.ref(job.id)
            submission.cancel(service.runtime, registry.kind_of(ref), ref.id)


def _crawl(service: LocalService, labels: list[str], max_images: int) -> CrawlView:
    """Run one job for all labels and return it."""
    parsed = options.parse({"sources": ["gallery"], "chunk_size": 10})
    job_id = new_jobs.create_crawl(service.runtime, CrawlArguments(tuple(labels), parsed, max_images), name="demo")
    new_jobs.start(client.start_crawl, job_id, title=f"job {job_id}")
    interrupted = f"\njob {job_id} was interrupted. Start over: pixcrawler demo"
    return job_watch.watch(service.runtime.sessions, CrawlView, job_id, check=service.check, interrupted=interrupted)


def _samples(folder: Path) -> Path:
    """Copy the images of scikit-image by label, and add a duplicate and two invalid files, which are rejected."""
    wheel = importlib.util.find_spec("skimage")
    if wheel is None or wheel.origin is None:
        raise PermanentError(
            "the sample images are not installed: pip install 'pixcrawler-worker[demo]', or give --from DIR"
        )
    images = Path(wheel.origin).parent / "data"
    for label, names in _SAMPLES.items():
        (folder / label).mkdir()
        for name in names:
            shutil.copy(images / name, folder / label / name)
    shutil.copy(images / "chelsea.png", folder / "animal" / "the-same-cat.png")
    (folder / "space" / "cut-off.jpg").write_bytes((images / "rocket.jpg").read_bytes()[:20_000])
    (folder / "page" / "not-an-image.png").write_text("<!doctype html><title>404</title>", encoding="utf-8")
    return folder


def _index(folder: Path) -> dict[str, list[str]]:
    """Return the index of the gallery: the files of each subdirectory, or those of the folder under its own name."""
    labels = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    index = {
        label: [path.relative_to(folder).as_posix() for path in sorted(below.rglob("*")) if path.is_file()]
        for label, below in (labels or {folder.resolve().name: folder}).items()
    }
    index = {label: files for label, files in index.items() if files}
    if not index:
        raise PermanentError(f"{folder} has no files: expected images, with one subdirectory per label")
    return index


class _FileHandler(SimpleHTTPRequestHandler):
    """Serves files without logging each request."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def _served(folder: Path, index: Mapping[str, list[str]]) -> Iterator[str]:
    """Serve the folder and its index on loopback; yield the base URL."""

    class Handler(_FileHandler):
        def do_GET(self) -> None:
            if self.path != "/index.json":
                super().do_GET()
                return
            body = json.dumps(index).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _print_sample(target: Path) -> None:
    """Print some rows of the dataset's table, and the number of images in each directory."""
    with (target / tables.NAME).open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file_name"])
    table = Table("label", "size", "bytes", "file", box=None, pad_edge=False)
    for row in rows[:: max(1, len(rows) // _MAX_ROWS)][:_MAX_ROWS]:
        name = row["file_name"]
        short = f"{name[:_NAME_LENGTH]}...{Path(name).suffix}"
        table.add_row(escape(row["label"]), f"{row['width']}x{row['height']}", row["bytes"], short)
    console.out.print(table)
    for below in sorted(path for path in target.iterdir() if path.is_dir()):
        console.out.print(f"{below.name}/  {sum(1 for _ in below.iterdir())} images")

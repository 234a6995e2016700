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

from pixcrawler_worker import settings as configuration
from pixcrawler_worker.cli import build, console, local, watching
from pixcrawler_worker.cli import crawl as crawling
from pixcrawler_worker.cli.build import Delivery
from pixcrawler_worker.cli.local import Local
from pixcrawler_worker.cli.request import Request
from pixcrawler_worker.crawl import options
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.protocol import Carrier

#: The pictures inside the scikit-image wheel, by what they show.
_SAMPLES: Mapping[str, tuple[str, ...]] = {
    "animal": ("chelsea.png", "horse.png"),
    "person": ("astronaut.png", "camera.png"),
    "space": ("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "texture": ("brick.png", "grass.png", "gravel.png"),
    "microscopy": ("cell.png", "ihc.png", "microaneurysms.png", "retina.jpg"),
    "thing": ("coffee.png", "coins.png", "clock_motion.png", "motorcycle_left.png", "motorcycle_right.png"),
    "page": ("page.png", "text.png", "logo.png"),
}
#: Images that are asked for when the pictures are more than anybody wants in a demonstration.
_MOST_IMAGES = 1000
_SHOWN_ROWS = 8
#: Letters of a file's name that are shown: enough to find it.
_SHOWN_NAME = 32


@click.command()
@click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Pictures of yours, a subfolder per label.  [default: those of scikit-image]",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the dataset is written."
)
def demo(*, folder: Path | None, out: Path | None) -> None:
    """Run sample pictures through the whole service: PostgreSQL, Redis, web server, worker processes, reports.

    Needs no internet. Everything it starts is stopped at the end; the dataset stays.
    """
    data_dir = configuration.load().data_dir / "demo"
    os.environ.pop("PIXCRAWLER_STORAGE_URL", None)
    with contextlib.ExitStack() as stack:
        gallery = folder or _samples(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pixcrawler-"))))
        index = _index(gallery)
        count = sum(map(len, index.values()))
        console.out.print(f"{count} candidates under {len(index)} labels in {gallery if folder else 'scikit-image'}")
        here = stack.enter_context(
            local.service(
                data_dir,
                allow_fake=True,
                concurrency=2,
                PIXCRAWLER_DATA_DIR=str(data_dir),
                PIXCRAWLER_GALLERY_URL=stack.enter_context(_served(gallery, index)),
                PIXCRAWLER_ALLOWED_NETWORKS="127.0.0.0/8",
                PIXCRAWLER_SWEEP_SECONDS="1",
            )
        )
        job = _crawl(here, sorted(index), min(count, _MOST_IMAGES))
        target = out or data_dir / f"dataset-{job.id}"
        made = build.deliver(
            here.runtime, job, target, Delivery(Carrier.ZIP, {}), check=here.check, again="pixcrawler demo"
        )
    if made is None:
        sys.exit(1)
    _show(target)
    lines = {
        "dataset": target.resolve(),
        "crawl": (target / "report.html").resolve(),
        "verdicts": (target / "validation.html").resolve(),
        "log": here.log.resolve(),
    }
    console.out.print("\n" + "\n".join(f"{name:<9}{path}" for name, path in lines.items()), soft_wrap=True)
    if job.status != JobStatus.COMPLETED:
        sys.exit(1)


def _crawl(here: Local, labels: list[str], max_images: int) -> CrawlView:
    """Run one job over the labels and return it."""
    asked = options.parse({"sources": ["gallery"], "chunk_size": 10})
    job_id = crawling.create(here.runtime, Request(tuple(labels), asked, max_images), name="demo")
    crawling.start(job_id)
    kept = f"\njob {job_id} ends here; pixcrawler demo begins anew"
    return watching.watch(here.runtime.sessions, CrawlView, job_id, check=here.check, interrupted=kept)


def _samples(folder: Path) -> Path:
    """Lay out scikit-image's pictures by label, and three broken candidates, so that refusals are seen as well."""
    wheel = importlib.util.find_spec("skimage")
    if wheel is None or wheel.origin is None:
        raise PermanentError(
            "the sample pictures are not installed: pip install 'pixcrawler-worker[demo]', or give --from DIR"
        )
    pictures = Path(wheel.origin).parent / "data"
    for label, names in _SAMPLES.items():
        (folder / label).mkdir()
        for name in names:
            shutil.copy(pictures / name, folder / label / name)
    shutil.copy(pictures / "chelsea.png", folder / "animal" / "the-same-cat.png")
    (folder / "space" / "cut-off.jpg").write_bytes((pictures / "rocket.jpg").read_bytes()[:20_000])
    (folder / "page" / "no-picture.png").write_text("<!doctype html><title>404</title>", encoding="utf-8")
    return folder


def _index(folder: Path) -> dict[str, list[str]]:
    """Return the gallery's index: the files of each subfolder, or those of the folder itself under its name."""
    labels = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    index = {
        label: [path.relative_to(folder).as_posix() for path in sorted(below.rglob("*")) if path.is_file()]
        for label, below in (labels or {folder.resolve().name: folder}).items()
    }
    index = {label: files for label, files in index.items() if files}
    if not index:
        raise PermanentError(f"{folder} has no files: it needs pictures, best in a subfolder per label")
    return index


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _served(folder: Path, index: Mapping[str, list[str]]) -> Iterator[str]:
    """Serve the folder and its index on loopback; yield the base URL."""

    class Handler(_Quiet):
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


def _show(target: Path) -> None:
    """Print some rows of the dataset's table, and its folders."""
    with (target / tables.NAME).open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file_name"])
    table = Table("label", "size", "bytes", "file", box=None, pad_edge=False)
    for row in rows[:: max(1, len(rows) // _SHOWN_ROWS)][:_SHOWN_ROWS]:
        name = row["file_name"]
        short = f"{name[:_SHOWN_NAME]}...{Path(name).suffix}"
        table.add_row(escape(row["label"]), f"{row['width']}x{row['height']}", row["bytes"], short)
    console.out.print(table)
    for below in sorted(path for path in target.iterdir() if path.is_dir()):
        console.out.print(f"{below.name}/  {sum(1 for _ in below.iterdir())} images")

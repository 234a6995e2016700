"""Photographs of a wanted size, and nginx to serve them.

They are cuts of the photographs that the wheel of scikit-image brings: each another part, mirrored or not, at
another scale, as JPEG with as many bytes for a pixel as photographs in the web have. That is what a decoder meets in a
crawl, which noise and gradients are not.
"""

import bisect
import itertools
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import skimage
from PIL import Image, ImageOps

_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
#: The number of pixels follows from the bytes, and the quality from both.
_BYTES_PER_PIXEL = 0.24
_DISTINCT = 128


def jpegs(size: int, *, distinct: int = _DISTINCT) -> list[bytes]:
    """Return so many different JPEGs of about `size` bytes each, always the same ones."""
    folder = Path(skimage.__file__).parent / "data"
    photographs = [Image.open(folder / name).convert("RGB") for name in _PHOTOGRAPHS]
    chance = random.Random(size)
    return [_cut(photographs[number % len(photographs)], size, chance) for number in range(distinct)]


def _cut(photograph: Image.Image, size: int, chance: random.Random) -> bytes:
    share = chance.uniform(0.6, 0.9)
    width, height = (round(side * share) for side in photograph.size)
    left, top = chance.randint(0, photograph.width - width), chance.randint(0, photograph.height - height)
    cut = photograph.crop((left, top, left + width, top + height))
    if chance.random() < 1 / 2:
        cut = ImageOps.mirror(cut)
    scale = (size / _BYTES_PER_PIXEL / (width * height)) ** 0.5
    sized = cut.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    best = bisect.bisect_left(range(98), size, lo=30, key=lambda quality: len(_encoded(sized, quality)))
    return _encoded(sized, best)


def _encoded(image: Image.Image, quality: int) -> bytes:
    written = BytesIO()
    image.save(written, "JPEG", quality=quality)
    return written.getvalue()


def write(folder: Path, count: int, size: int) -> list[str]:
    """Write so many files with different bytes, and return their names.

    A number after the end of the JPEG makes the bytes differ without another photograph for each.
    """
    distinct = jpegs(size)
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(distinct[number % len(distinct)] + str(number).encode())
    return names


@contextmanager
def served(folder: Path, *, hosts: int = 1) -> Iterator[Sequence[str]]:
    """Serve a folder with nginx, and yield the base URL of each host: addresses of loopback.

    Raises:
        FileNotFoundError: when nginx is not installed.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as own:
        config = Path(own) / "nginx.conf"
        config.write_text(_CONFIG.format(own=own, port=port, folder=folder))
        # As root, nginx would serve as another user, who may not read the folder.
        command: list[str | Path] = [program, "-c", config, "-p", own, "-g", "user root;" if os.geteuid() == 0 else ""]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(port)
                yield [f"http://{address}:{port}" for address in addresses(hosts)]
            finally:
                process.terminate()


def addresses(count: int) -> list[str]:
    """Return so many addresses of loopback, each of which a crawler takes for a host of its own."""
    every = (f"127.0.{block}.{number}" for block in range(256) for number in range(1, 255))
    return list(itertools.islice(every, count))


def wait_for(port: int) -> None:
    """Wait until a port of loopback is listened on."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"port {port} is not listened on")


_CONFIG = """
daemon off; worker_processes 1; pid {own}/pid; error_log {own}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; open_file_cache max=100000;
  types {{ image/jpeg jpg; text/plain txt; }}
  client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c;
  uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;
  server {{ listen {port} reuseport backlog=4096; root {folder}; }}
}}
"""

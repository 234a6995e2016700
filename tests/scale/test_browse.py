"""The page of a job with 10,000 images in Chromium, at two widths: time to the first view, memory, and its marks."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from browser import requires_chromium
from chromium import Chromium
from export import exporting
from export.exporting import StoredImage, crawl_of, image_bytes

from pixcrawler_worker.browse import content, page_file, server
from pixcrawler_worker.domain import exclusions
from pixcrawler_worker.runtime import Runtime

IMAGES, MARKED = 10_000, 40

pytestmark = [pytest.mark.scale, pytest.mark.timeout(1800), requires_chromium]

LABELS = ("cat", "dog", "otter", "panda")
THUMBNAILS_SHOWN = """[...document.querySelectorAll(".tile")].filter((tile) => {
  const box = tile.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight && tile.querySelector(".thumb")?.style.backgroundImage;
}).length"""
#: Milliseconds from a jump until thumbnails are shown there.
JUMP = """(async () => {
  const begun = performance.now();
  scrollTo(0, document.documentElement.scrollHeight * PLACE);
  do { await new Promise(requestAnimationFrame); } while (!(SHOWN > 3));
  return performance.now() - begun;
})()""".replace("SHOWN", THUMBNAILS_SHOWN)


def test_ten_thousand_images_are_looked_at_and_marks_are_honored(runtime: Runtime, tmp_path: Path) -> None:
    job = 0
    for first in range(0, IMAGES, 1000):
        stored = [
            StoredImage(image_bytes(number, size=(480, 360)), label=LABELS[number % 4])
            for number in range(first, first + 1000)
        ]
        job = job or crawl_of(runtime, [], name="ten thousand", max_images=IMAGES)
        exporting.add(
            runtime, job, [replace(one, url=f"https://example.org/{first + at}") for at, one in enumerate(stored)]
        )
    begun = time.monotonic()
    page = page_file.write(runtime, content.read(runtime, job), tmp_path / "page.html")
    lines = [f"written in {time.monotonic() - begun:.0f} s, {page.size / 1e6:.0f} MB"]
    assert (page.images, page.missing) == (IMAGES, 0)
    saved = tmp_path / "none"
    for width, height in ((1400, 900), (400, 800)):
        with Chromium(tmp_path / str(width), width=width, height=height) as browser:
            empty = browser.memory()
            browser.open(page.path.as_uri())
            first_view = float(browser.wait("document.documentElement.dataset.shown"))
            browser.wait(f"{THUMBNAILS_SHOWN} > 3")
            pictures = browser.run("performance.now()")
            browser.wait("document.readyState === 'complete'")
            loaded = browser.run("performance.now()")
            memory = browser.memory() - empty
            jumps = [browser.run(JUMP.replace("PLACE", str(place))) for place in (0.9, 0.1, 0.5, 0.3, 0.7)]
            sorting = browser.run(
                "(() => { const begun = performance.now(); document.querySelector('#sort').value = 'entropy';"
                " document.querySelector('#form').dispatchEvent(new Event('input'));"
                " return new Promise((done) => setTimeout(() => requestAnimationFrame(() =>"
                " done(performance.now() - begun - 80)), 81)); })()"
            )
            sorted_jumps = [browser.run(JUMP.replace("PLACE", str(place))) for place in (0.8, 0.2, 0.6)]
            tiles = browser.run("document.querySelectorAll('.tile').length")
            scrolled = browser.memory() - empty
            browser.run("scrollTo(0, 0)")
            browser.click(".tile .show")
            browser.press("Escape")
            for _ in range(MARKED):
                browser.press("x")
                browser.press("ArrowRight")
            browser.open(page.path.as_uri())
            browser.wait("document.documentElement.dataset.shown")
            assert f"{MARKED} marked" in browser.wait("document.querySelector('#status').textContent")
            browser.click("#save")
            saved = browser.download()
            assert browser.problems() == []
        lines.append(
            f"{width} pixels: first view after {first_view:.0f} ms, with thumbnails {pictures:.0f} ms, all loaded "
            f"{loaded:.0f} ms, {memory / 1e6:.0f} MB, after scrolling {scrolled / 1e6:.0f} MB, {tiles} tiles; "
            f"jumps {max(jumps):.0f} ms, sorting {sorting:.0f} ms, jumps then {max(sorted_jumps):.0f} ms"
        )
        assert first_view < 15_000
        assert tiles < 400
        assert scrolled < 1_500_000_000
    marked = exclusions.digests(json.loads(saved.read_text()))
    assert len(marked) == MARKED
    ref = exporting.export(runtime, job, {"select": {"exclude_images": marked}}, format_="csv")
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images) == ("completed", IMAGES - MARKED)
    lines += served(runtime, job, tmp_path)
    print("\n".join(lines), file=sys.__stderr__)


def served(runtime: Runtime, job: int, folder: Path) -> list[str]:
    """Look at the page of a server in a browser, beside the server, and interrupt it as Ctrl-C does."""
    lines: list[str] = []

    def look(url: str) -> None:
        try:
            with Chromium(folder / "served") as browser:
                empty = browser.memory()
                browser.open(url)
                first_view = float(browser.wait("document.documentElement.dataset.shown"))
                browser.wait(f"{THUMBNAILS_SHOWN} > 3")
                pictures = browser.run("performance.now()")
                jumps = [browser.run(JUMP.replace("PLACE", str(place))) for place in (0.9, 0.1, 0.5, 0.3, 0.7)]
                lines.append(
                    f"served: first view after {first_view:.0f} ms, with thumbnails {pictures:.0f} ms, jumps "
                    f"{max(jumps):.0f} ms, {(browser.memory() - empty) / 1e6:.0f} MB"
                )
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        server.serve(runtime, job, port=0, started=lambda url: Thread(target=look, args=(url,)).start())
    assert lines, "it was not shown"
    return lines

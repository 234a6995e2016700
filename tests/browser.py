"""Headless Chromium: the document of a web page, and a screenshot."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
#: Directory of the screenshots, for people to look at.
ARTIFACTS = Path(__file__).parents[1] / "artifacts"

requires_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

# The background services of a browser would connect to the internet.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def look(url: str, name: str, *, width: int = 1280, height: int = 800) -> str:
    """Open a web page, save a screenshot as `artifacts/<name>.png`, and return the document after its scripts ran."""
    assert CHROMIUM is not None
    ARTIFACTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                CHROMIUM,
                *OPTIONS,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                # Virtual time for the scripts of the page.
                "--virtual-time-budget=8000",
                f"--screenshot={ARTIFACTS / name}.png",
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
    return done.stdout

"""Debian's Chromium without a screen: what a page says, and what it looks like."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
#: Where pictures of pages are kept for people to look at.
ARTIFACTS = Path(__file__).parents[1] / "artifacts"

requires_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

# The background services of a browser ask hosts of the internet.
_QUIET = (
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
    """Open a page, keep its picture as `artifacts/<name>.png`, and return its document as its scripts left it."""
    assert CHROMIUM is not None
    ARTIFACTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                CHROMIUM,
                *_QUIET,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                # How long the page's own clock goes on for its scripts.
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

"""A headless Chromium that tests drive: keys, clicks, files, screenshots, memory.

It speaks the DevTools protocol over two pipes, so that it needs no port and no library.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from browser import ARTIFACTS, CHROMIUM, OPTIONS

#: The browser reads commands from descriptor 3 and writes to 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
#: The lowest descriptor that is passed on.
_HIGH = 20
#: Seconds for one answer, and for a page to become what a test waits for: a busy machine takes its time.
_PATIENCE = 40.0
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Delete": 46,
         "Home": 36, "End": 35, "PageDown": 34, "Tab": 9}  # fmt: skip


class Chromium:
    """A browser with an empty profile, and one page. Use it as a context.

    Args:
        folder: of the profile, and of downloads below `downloads`.
        width: pixels of the page.
        height: pixels.
        dark: whether it prefers dark colors.
    """

    def __init__(self, folder: Path, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        self._size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._dark = dark
        self._profile = folder / "profile"
        self._number = 0
        self._session: str | None = None
        self._context: str | None = None
        self._received = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        theirs, self._write = os.pipe()
        self._read, answers = os.pipe()
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, _HIGH) for one in (theirs, answers)]
        options = [*OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, high), CHROMIUM, *options],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one in (theirs, answers, *high):
            os.close(one)
        self.renew()
        return self

    def renew(self) -> None:
        """Close the page, and open one that knows nothing of what it has stored, with an empty folder for downloads."""
        if self._context:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self.forget_downloads()
        self._events.clear()
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        page = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(self.downloads),
            browserContextId=self._context,
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **self._size)
        self.prefer(dark=self._dark)

    def prefer(self, *, dark: bool) -> None:
        """Prefer dark or light colors."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def forget_downloads(self) -> None:
        """Delete what was downloaded."""
        for path in self.downloads.iterdir():
            path.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
            self._events.append(answer)
        raise AssertionError(f"the browser ended at {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            line, zero, rest = self._received.partition(b"\0")
            if zero:
                self._received = rest
                yield json.loads(line)
            elif select.select([self._read], [], [], 1)[0]:
                more = os.read(self._read, 1 << 20)
                if not more:
                    return
                self._received += more
        raise AssertionError("the browser does not respond")

    def open(self, url: str) -> None:
        """Open a URL; the page may still be loading."""
        self._events.clear()
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression, or of the promise that it is."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """Return the value of an expression once it is true; until then it may raise, while a page is loading."""
        guarded = f"(() => {{ try {{ return ({script}); }} catch {{ return null; }} }})()"
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if value := self.run(guarded):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never true: {script}")

    def press(self, key: str) -> None:
        """Press a key: a character, or the name of another one."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = _KEYS.get(key, ord(key.upper()[0]))
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str, *, shift: bool = False, control: bool = False) -> None:
        """Click the middle of the first element of a selector that is shown."""
        place = self.wait(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); if (!one) return null;"
            " one.scrollIntoView({block: 'nearest'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        how = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1, "modifiers": 8 * shift + 2 * control}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **how)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **how)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(one) for one in files], objectId=found["result"]["objectId"])

    def screenshot(self, name: str) -> Path:
        """Save a screenshot as `artifacts/<name>.png`."""
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path

    def download(self) -> Path:
        """Return the only file that was downloaded, once it is complete."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            found = list(self.downloads.iterdir())
            if found and not any(one.suffix == ".crdownload" for one in found):
                (path,) = found
                return path
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")

    def problems(self) -> list[str]:
        """Return the errors that the page has had: exceptions, violations of its policy, requests that failed."""
        self.run("1")  # what happened before is read by then
        found = []
        for event in self._events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"])[:500])
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(parameters["entry"]["text"])
        return found

    def requested(self) -> list[str]:
        """Return the URLs that the page has requested, but for those inside of it."""
        self.run("1")
        urls = [
            event["params"]["request"]["url"]
            for event in self._events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def memory(self) -> int:
        """Return the bytes that all processes of the browser have for themselves (PSS)."""
        pids = {self._process.pid}
        parents = {int(one.name): _parent(one) for one in Path("/proc").iterdir() if one.name.isdigit()}
        while more := {pid for pid, parent in parents.items() if parent in pids} - pids:
            pids |= more
        return sum(_pss(pid) for pid in pids)


def _parent(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0

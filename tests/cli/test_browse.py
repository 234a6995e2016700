"""`pixcrawler browse`: a file, or a server until it is interrupted."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from browse.browsing import data_of, job_of
from calls import call

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage


@pytest.fixture(name="job")
def stored_job(env: Mapping[str, str], runtime: Runtime) -> int:
    return job_of(replace(runtime, storage=Storage(env["PIXCRAWLER_STORAGE_URL"])), 3)


def test_it_writes_a_file_and_says_where(env: Mapping[str, str], job: int) -> None:
    result = call(env, "browse", str(job))
    assert result.exit_code == 0, result.output
    path = Path(f"browse-{job}.html")
    assert re.fullmatch(rf"page: browse-{job}\.html \(3 images, [0-9.]+ kB\)\n", result.stdout)
    assert len(data_of(path.read_text())["images"]) == 3
    before = path.stat().st_ino
    assert call(env, "browse", str(job)).exit_code == 0, "a second time, too"
    assert path.stat().st_ino != before


@pytest.mark.parametrize(("output", "path"), [("deep/page.html", "deep/page.html"), (".", "browse-JOB.html")])
def test_a_file_or_a_directory_is_named(env: Mapping[str, str], job: int, output: str, path: str) -> None:
    result = call(env, "browse", str(job), "--output", output)
    assert result.exit_code == 0, result.output
    assert Path(path.replace("JOB", str(job))).is_file()


def test_a_file_whose_name_is_not_utf_8_is_named_as_it_is(env: Mapping[str, str], job: int) -> None:
    name = b"caf\xe9.html"
    command = [sys.executable, "-m", "pixcrawler_worker.cli.main", "browse", str(job), "--output", os.fsdecode(name)]
    # As in the locale of any country, of which a container has none.
    usual = {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env={**os.environ, **env, **usual}, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"page: " + name + b" (3 images, ")
    assert Path(os.fsdecode(name)).is_file()


def test_images_without_a_thumbnail_are_counted(env: Mapping[str, str], job: int) -> None:
    for path in Path("storage").rglob("*.jpg"):
        path.unlink()
    assert "(3 images, 3 without a thumbnail, " in call(env, "browse", str(job)).stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Missing argument 'JOB'"),
        (("x",), 2, "expected an integer, got 'x'"),
        (("1", "--serve", "--output", "x"), 2, "--serve writes no file: leave out --output"),
        (("1", "--serve", "--port", "70000"), 2, "70000 is not in the range 0<=x<=65535"),
    ],
)
def test_invalid_arguments_are_named(env: Mapping[str, str], words: tuple[str, ...], code: int, message: str) -> None:
    result = call(env, "browse", *words)
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (code, True), result.stderr


def test_a_job_that_does_not_exist_is_named(env: Mapping[str, str]) -> None:
    for more in ((), ("--serve",)):
        with pytest.raises(PermanentError, match="there is no crawl job 123456; `pixcrawler jobs list` lists the"):
            call(env, "browse", "123456", *more)
    assert not Path("browse-123456.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(env: Mapping[str, str], job: int, number: signal.Signals) -> None:
    with _command(env, str(job), "--serve", "--port", "0") as process:
        assert process.stdout
        assert process.stderr
        try:
            found = re.fullmatch(r"page: (http://127\.0\.0\.1:\d+/[\w-]{32}/)\n", process.stdout.readline())
            assert found
            assert process.stdout.readline() == "Stop with Ctrl-C.\n"
            with urllib.request.urlopen(found[1], timeout=60) as answer:
                data = data_of(answer.read().decode())
            image = data["images"][0]["id"]
            with urllib.request.urlopen(f"{found[1]}thumbnail/{image}", timeout=60) as answer:
                assert answer.read(3) == b"\xff\xd8\xff"
        finally:
            process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert [one.name for one in Path().iterdir() if one.name != "storage"] == []


def _command(env: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("pixcrawler")
    return subprocess.Popen(
        [program, "browse", *words],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

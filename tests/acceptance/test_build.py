"""`pixcrawler build`: from keywords to a dataset, on its own services, and interrupted at every stage."""

import contextlib
import csv
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from acceptance_stack import PIXCRAWLER, url_list
from fakes import providers
from fakes.providers import Catalog

PANDA, LEOPARD = "red panda", "snow leopard"
LOOPBACK = {"PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def bare() -> dict[str, str]:
    """An environment without any configuration."""
    foreign = ("PIXCRAWLER_", "DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | LOOPBACK


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_keywords_get_half_of_the_images_each_with_credit(bare: dict[str, str], tmp_path: Path) -> None:
    words = [PIXCRAWLER, "build", PANDA, LEOPARD, "--max-images", "200", "--out", "pandas"]
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=150, repeated=0.3, dead=0.2)) as server:
        built = subprocess.run(
            words, env=bare | server.settings, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
    assert built.returncode == 0, built.stderr
    assert "200 of 200 images" in built.stdout
    table = rows(tmp_path / "pandas")
    assert Counter(row["label"] for row in table) == {PANDA: 100, LEOPARD: 100}
    assert all(row["license"] and row["author"] and row["attribution"] and row["page_url"] for row in table)
    assert len({row["sha256"] for row in table}) == 200
    assert all((tmp_path / "pandas" / row["file_name"]).is_file() for row in table)
    assert (tmp_path / "pandas" / "report.html").is_file()


@contextlib.contextmanager
def interrupted(words: list[str], env: dict[str, str], folder: Path, when: Callable[[], bool]) -> Iterator[str]:
    """Run a command, interrupt it as soon as a condition holds, and yield its stderr."""
    with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
        process = subprocess.Popen([PIXCRAWLER, *words], env=env, cwd=folder, stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + 60
            while not when():
                assert process.poll() is None, (folder / "err.txt").read_text()
                assert time.monotonic() < deadline, f"the condition was never reached: {words}"
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
    yield (folder / "err.txt").read_text()


def processes(folder: Path) -> list[str]:
    """Command lines of running processes that use this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            here = (process / "cwd").resolve()
            if str(folder) in line or here.is_relative_to(folder):
                found.append(line)
    return found


def test_it_can_be_interrupted_at_every_stage_and_resumed(bare: dict[str, str], slow_host: str, tmp_path: Path) -> None:
    listed, _ = url_list(slow_host, good=100, broken=0)
    (tmp_path / "list.txt").write_text("\n".join(listed))
    env = bare | {"PIXCRAWLER_FETCH_CONCURRENCY": "2", "PIXCRAWLER_CHUNK_SIZE": "10"}
    data, store = tmp_path / ".pixcrawler", tmp_path / ".pixcrawler" / "storage" / "crawl_jobs"
    build = ["build", "cat", "--urls", "list.txt", "--out", "cats"]
    # While it creates PostgreSQL: there is no job yet.
    with interrupted(build, env, tmp_path, (data / "postgres").is_dir) as message:
        assert "Traceback" not in message
    # While the worker starts: there is a job.
    with interrupted(build, env, tmp_path, (data / "worker.log").exists) as message:
        assert "Traceback" not in message
    # While images are downloaded.
    with interrupted(build, env, tmp_path, lambda: any(store.glob("*/*/*.jpg"))) as message:
        assert "Traceback" not in message
        (job,) = [line for line in message.splitlines() if "Resume it:" in line]
        assert f"Resume it: pixcrawler build --job {job.split()[1]}" in job
    resume = ["build", "--job", job.split()[1], "--out", "cats"]
    seen = len(list(store.glob("*/*/*.jpg")))
    # The same after resuming.
    with interrupted(resume, env, tmp_path, lambda: len(list(store.glob("*/*/*.jpg"))) > seen) as message:
        assert f"pixcrawler build {resume[1]} {resume[2]}" in message
    assert not (tmp_path / "cats").exists()
    assert processes(tmp_path) == []
    # With more concurrent downloads it reaches the end.
    done = subprocess.run(
        [PIXCRAWLER, *resume],
        env=env | {"PIXCRAWLER_FETCH_CONCURRENCY": "64"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(row["source_url"] for row in rows(tmp_path / "cats")) == sorted(listed)
    assert processes(tmp_path) == []

"""An API that has only Celery: it sends task names and ids, and reads rows."""

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from acceptance_stack import Stack, url_list
from packaging.requirements import Requirement

from pixcrawler_worker.domain.messages import Task

SEND = """
import sys
for module in ("pixcrawler_worker", "sqlalchemy", "pydantic", "aiohttp"):
    try:
        __import__(module)
    except ImportError:
        continue
    sys.exit(f"{module} is installed: this process has more than Celery")
import json
from celery import Celery
task, args, queue = json.loads(sys.argv[2])
Celery(broker=sys.argv[1]).send_task(task, args=args, queue=queue)
"""


Extras = tuple[str, frozenset[str]]


def collect(needed: Extras, seen: dict[Extras, Distribution]) -> None:
    """Collect a distribution with some of its extras, and what it needs on this machine."""
    name, extras = needed
    seen[needed] = distribution(name)
    for line in seen[needed].requires or ():
        requirement = Requirement(line)
        here = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
        )
        other = (requirement.name.lower(), frozenset(requirement.extras))
        if here and other not in seen:
            collect(other, seen)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds Celery with its Redis client, as `pip install celery[redis]` into an empty one leaves it."""
    folder = tmp_path_factory.mktemp("site")
    found: dict[Extras, Distribution] = {}
    collect(("celery", frozenset({"redis"})), found)
    for one in found.values():
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(one.locate_file(top))))
    return folder


def test_a_job_is_started_cancelled_and_retried_by_name(stack: Stack, slow_host: str, site: Path) -> None:
    def send(task: Task, *args: object, queue: str) -> None:
        code = f"import sys; sys.path.insert(0, {str(site)!r})\n{SEND}"
        words = [sys.executable, "-I", "-S", "-c", code, stack.broker_url, json.dumps([task.value, args, queue])]
        sent = subprocess.run(words, capture_output=True, text=True, check=False)
        assert sent.returncode == 0, sent.stderr

    listed, _ = url_list(slow_host, good=200, broken=0)
    job_id = stack.make_job(max_images=200)
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="2"):
        send(Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 10}, queue="crawl")
        stack.wait(job_id, until=lambda row: row["valid_images"] > 0)
        send(Task.CRAWL_CANCEL, job_id, queue="maintenance")
        stack.wait(job_id)
        assert stack.job(job_id)["status"] == "cancelled"
        assert 0 < stack.job(job_id)["valid_images"] < 200
        send(Task.CRAWL_RETRY, job_id, queue="crawl")
        stack.wait(job_id, until=lambda row: row["status"] == "completed")
    assert len(stack.rows(job_id)) == stack.job(job_id)["valid_images"] == 200

"""Jobs that extend the dataset of another one: what they leave out, and which jobs can be extended."""

from collections.abc import Sequence
from typing import Any

import ledger
import pytest
from doubles import counted, drive, image_urls, last_details, start, status, urls_of
from factories import make_job, make_project
from fakes.hosts import HostileServer

from pixcrawler_worker.db import crawl_history, extensions
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("sound")


@pytest.fixture
def project(runtime: Runtime) -> int:
    return make_project(runtime.sessions)


def crawl(runtime: Runtime, urls: Sequence[str], *, project: int, **options: Any) -> JobRef:
    ref, messages = start(runtime, urls, job={"project_id": project}, **options)
    drive(runtime, messages)
    return ref


def chain(runtime: Runtime, ref: JobRef) -> list[int]:
    with runtime.sessions.begin() as session:
        return extensions.chain(session, ref.id)


def test_a_job_leaves_out_what_all_jobs_of_its_chain_have_and_nothing_else(
    runtime: Runtime, host: HostileServer, project: int
) -> None:
    urls = image_urls(host, "chain", 7)
    first = crawl(runtime, urls[:2], project=project)
    beside = crawl(runtime, urls[5:6], project=project)
    second = crawl(runtime, urls[:4], project=project, extends=first.id)
    same = urls[3].removesuffix(".jpg")
    third = crawl(runtime, [*urls[:3], same, *urls[4:]], project=project, extends=second.id)
    assert urls_of(runtime, second) == set(urls[2:4])
    assert urls_of(runtime, third) == set(urls[4:])
    with runtime.sessions.begin() as session:
        assert crawl_history.reasons(session, third.id) == {"known_url": 3, "known_bytes": 1}
    assert counted(runtime, third) == (7, 4, 3)
    assert [host.hits[url.removeprefix(host.base)] for url in urls] == [1, 1, 1, 1, 1, 2, 1]
    assert chain(runtime, third) == [first.id, second.id, third.id]
    assert chain(runtime, beside) == [beside.id]
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=second.id)
    assert chain(runtime, third) == [first.id, third.id], "the chain outlives a job in its middle"
    ledger.execute(
        runtime.sessions,
        "UPDATE crawl_jobs SET project_id = :other WHERE id = :id",
        other=make_project(runtime.sessions),
        id=first.id,
    )
    assert chain(runtime, third) == [third.id], "a job of another project is never read"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("running", "crawl job {base} is running: its dataset can be extended when it has ended"),
        ("pending", "crawl job {base} is pending: its dataset can be extended when it has ended"),
        ("foreign", "there is no crawl job {base} in project {project}"),
        ("deleted", "there is no crawl job {base} in project {project}"),
        ("own", "crawl job {base} cannot extend itself"),
    ],
)
def test_what_cannot_be_extended_fails_the_job_before_any_request(
    runtime: Runtime, host: HostileServer, project: int, base: str, message: str
) -> None:
    urls = image_urls(host, f"cannot-{base}", 1)
    state = base if base in {"running", "pending"} else "completed"
    owner = make_project(runtime.sessions) if base == "foreign" else project
    base_id = make_job(runtime.sessions, project_id=owner, status=state)
    if base == "deleted":
        ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=base_id)
    if base == "own":
        base_id += 1
    ref = crawl(runtime, urls, project=project, extends=base_id)
    assert status(runtime, ref) is JobStatus.FAILED
    wanted = f"options.extends: {message.format(base=base_id, project=project)}"
    assert str(last_details(runtime, ref)["reason"]).startswith(wanted)
    assert host.hits[f"/good/cannot-{base}-0.jpg"] == 0
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs")

"""Invalid input: one line or a failed job with its reason, nothing hangs, and the worker keeps running."""

import subprocess
import time
from pathlib import Path

import preloaded
import pytest
from acceptance_stack import WORKER, Stack, send, url_list

from pixcrawler_worker.domain.messages import Task


def reason(stack: Stack, job_id: int) -> str:
    """The details of the failure in the activity log."""
    ((details,),) = stack.query(
        "SELECT metadata_ FROM activity_logs WHERE action = 'crawl_job.failed' AND resource_id = %s", str(job_id)
    )
    return str(details)


def test_an_invalid_row_or_invalid_options_fail_the_job_with_a_reason(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=5, broken=0)
    urls: dict[str, object] = {"urls": listed}
    wrong: list[tuple[dict[str, object], dict[str, object], str]] = [
        ({"max_images": 0}, urls, "max_images must be above 0"),
        ({"max_images": -3}, urls, "max_images must be above 0"),
        ({"keywords": []}, urls, "keywords is empty"),
        ({"keywords": "cat"}, urls, "keywords must be an array"),
        ({"keywords": {"query": "cat"}}, urls, "keywords must be an array"),
        ({"keywords": ["cat", "dog"]}, urls, "one label"),
        ({}, urls | {"min_widht": 3}, "did you mean 'min_width'?"),
        ({}, {"sources": ["galery"]}, "no source 'galery'"),
        ({}, {"sources": ["gallery"]}, "PIXCRAWLER_GALLERY_URL"),
        ({}, {"sources": ["urls"]}, "needs a list"),
    ]
    jobs = [(stack.make_job(**values), options, text) for values, options, text in wrong]
    good = stack.make_job(max_images=5)
    with stack.worker():
        send(stack, Task.CRAWL_START, 999_999, urls)
        send(stack, Task.CRAWL_CHUNK, 999_999)
        send(stack, Task.CRAWL_CANCEL, 999_999, queue="maintenance")
        for job_id, options, _ in jobs:
            send(stack, Task.CRAWL_START, job_id, options)
        send(stack, Task.CRAWL_START, good, urls)
        stack.wait(good)
        for job_id, _, text in jobs:
            stack.wait(job_id)
            assert stack.job(job_id)["status"] == "failed"
            assert text in reason(stack, job_id)
    assert stack.job(good)["valid_images"] == 5


def test_invalid_urls_in_a_list_are_counted_and_do_no_other_harm(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=20, broken=0)
    junk = [
        "",
        "   ",
        "not a URL",
        "ftp://example.org/a.jpg",
        "http://",
        "http://[::1",
        "javascript:alert(1)",
        "\u2028",
    ]
    job_id = stack.make_job(max_images=50)
    with stack.worker():
        send(stack, Task.CRAWL_START, job_id, {"urls": [*junk, *listed, *junk]})
        stack.wait(job_id)
    assert stack.job(job_id)["valid_images"] == 20
    # Spaces around a URL are none of it, so that the three blank ones are the same.
    assert stack.reasons(job_id) == {"bad_url": len(junk) - 2, "duplicate_url": len(junk) + 2}


def test_storage_that_cannot_be_written_fails_the_job_and_says_so(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=20, broken=0)
    job_id = stack.make_job(max_images=20)
    folder = stack.data_dir / "store"
    folder.mkdir()
    # A file where the job's folder has to be.
    (folder / "crawl_jobs").write_text("in the way")
    with stack.worker(PIXCRAWLER_STORAGE_URL=folder.as_uri()) as worker:
        send(stack, Task.CRAWL_START, job_id, {"urls": listed})
        stack.wait(job_id, until=lambda _: bool(stack.query(_TROUBLED, job_id)))
        # What took minutes of patience otherwise: the next attempt is the last one, and due now.
        stack.query(
            "UPDATE pixcrawler.chunks SET max_attempts = attempt + 1, available_at = now() RETURNING id",
        )
        stack.wait(job_id)
        assert worker.poll() is None
    assert stack.job(job_id)["status"] == "failed"
    assert "could not be written" in reason(stack, job_id)
    assert not stack.rows(job_id)


_TROUBLED = "SELECT 1 FROM pixcrawler.chunks WHERE crawl_job_id = %s AND error IS NOT NULL"


def test_a_worker_refuses_a_database_without_tables_in_one_line(stack: Stack, empty_database_url: str) -> None:
    ended = stack.run(*WORKER, PIXCRAWLER_DATABASE_URL=empty_database_url)
    assert ended.returncode != 0
    assert "run `pixcrawler db upgrade`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PIXCRAWLER_LEASE_SECONDS", "soon", "PIXCRAWLER_LEASE_SECONDS is invalid"),
        ("PIXCRAWLER_DATABASE_URL", "mysql://root:secret@db/x", "must begin with postgresql://"),
        ("PIXCRAWLER_STORAGE_URL", "tape:///dev/st0", "cannot be opened"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it(
    stack: Stack, name: str, value: str, message: str
) -> None:
    ended = stack.run(*WORKER, **{name: value})
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


def test_a_worker_waits_for_services_that_are_absent_at_its_start(stack: Stack, tmp_path: Path) -> None:
    listed, _ = url_list(stack.host, good=5, broken=0)
    job_id = stack.make_job(max_images=5)
    database, broker = f"postgresql:///pixcrawler?host={tmp_path}", f"redis+socket://{tmp_path}/redis?virtual_host=0"
    absent = stack.worker(PIXCRAWLER_DATABASE_URL=database, PIXCRAWLER_BROKER_URL=broker)
    with absent as worker:
        deadline = time.monotonic() + 60
        while "waiting for it" not in stack.log():
            assert time.monotonic() < deadline, stack.log()
            time.sleep(0.1)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=1)
    with stack.worker():
        send(stack, Task.CRAWL_START, job_id, {"urls": listed})
        stack.wait(job_id)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["crawl", "cat", "--urls", "none.txt"], "none.txt"),
        (["crawl", "cat", "--max-images", "0"], "max-images"),
        (["crawl"], "KEYWORD"),
        (["crawl", "cat", "--color"], "--color"),
        (["jobs", "show", "seven"], "seven"),
        (["fly"], "fly"),
        (["crawl", "cat", "--urls", "blank.txt"], "contains no URLs"),
        (["crawl", "   "], "blank"),
        (["crawl", "cat", "--source", "comons"], "did you mean 'commons'?"),
        (["build", "cat", "--license", "cc-buy"], "did you mean 'cc-by'?"),
    ],
)
def test_invalid_arguments_exit_with_2_and_one_line(stack: Stack, words: list[str], message: str) -> None:
    (stack.data_dir / "blank.txt").write_text("\n# nothing\n")
    ended = stack.run("pixcrawler", *words)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert message in ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs", "show", "424242"], "there is no crawl job 424242"),
        (["jobs", "cancel", "424242"], "there is no crawl job 424242"),
        (["jobs", "retry", "424242"], "there is no crawl job 424242"),
        (["crawl", "cat", "--project", "424242"], "there is no project 424242"),
    ],
)
def test_an_impossible_request_exits_with_1_and_one_line(stack: Stack, words: list[str], message: str) -> None:
    ended = stack.run("pixcrawler", *words)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert message in ended.stderr


def test_commands_without_services_say_what_to_configure(stack: Stack) -> None:
    env = {name: value for name, value in stack.env.items() if not name.endswith(("DATABASE_URL", "BROKER_URL"))}
    ended = preloaded.run(["pixcrawler", "jobs", "list"], env=env, cwd=stack.data_dir)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "PIXCRAWLER_DATABASE_URL" in ended.stderr
    assert "pixcrawler up" in ended.stderr

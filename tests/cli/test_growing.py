"""`pixcrawler build --extend`: a dataset that grows twice, and what cannot be extended."""

import csv
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ledger
import pytest
import redis
from building import working
from calls import call
from doubles import image_urls, query
from factories import make_job, make_project
from fakes import hosts
from fakes.hosts import HostileServer

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def host() -> Iterator[HostileServer]:
    with hosts.serving() as server:
        yield server


def listed(name: str, urls: Sequence[str]) -> str:
    Path(name).write_text("\n".join(urls))
    return name


def rows(folder: str) -> dict[str, dict[str, str]]:
    """Return the rows of a dataset by the names of files."""
    with (Path(folder) / "images.csv").open(newline="", encoding="utf-8") as file:
        return {row["file_name"]: row for row in csv.DictReader(file)}


def newest(runtime: Runtime) -> int:
    ((job_id,),) = query(runtime, "SELECT max(id) FROM crawl_jobs")
    return int(job_id)


def test_a_dataset_grows_twice_and_nothing_in_it_moves_or_is_requested_again(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer
) -> None:
    del broker
    urls = image_urls(host, "grown", 24)
    # That of the jobs that run in this process.
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}

    def build(*words: str) -> None:
        result = call(env, "build", "cat", *words)
        assert result.exit_code == 0, result.output

    with working(runtime):
        build("--urls", listed("one.txt", urls[:12]), "--split", "train=0.5,test=0.5", "--out", "one")
        first = newest(runtime)
        # One that a person does not want: neither in the next dataset nor in the one after it, and not requested again.
        before = rows("one")
        unwanted = min(before)
        Path("marks.json").write_text(json.dumps({"exclude_images": [{"sha256": before[unwanted]["sha256"]}]}))
        again = [*urls[:18], urls[3].removesuffix(".jpg")]
        build("--urls", listed("two.txt", again), "--extend", str(first), "--exclude", "marks.json", "--out", "two")
        second = newest(runtime)
        build("--urls", listed("three.txt", urls), "--extend", str(second), "--out", "three")
        third = newest(runtime)
        # Nothing new: the dataset as it was.
        build("--urls", "three.txt", "--extend", str(third), "--out", "four")
    assert rows("four") == rows("three")
    one, two, three = before, rows("two"), rows("three")
    del one[unwanted]
    assert (len(one), len(two), len(three)) == (11, 17, 23)
    assert {name: two[name] for name in one} == one
    assert {name: three[name] for name in two} == two
    assert {row["split"] for row in three.values()} == {"train", "test"}, "the splits of the first build hold"
    assert all((Path("three") / name).is_file() for name in three)
    assert [host.hits[url.removeprefix(host.base)] for url in urls] == [1] * 24
    reasons = call(env, "jobs", "show", str(second), "--json")
    assert json.loads(reasons.stdout)["reasons"] == {"known_url": 12, "known_bytes": 1}
    assert json.loads(reasons.stdout)["extends"] == [first]
    assert f"extends {second}, {first}" in " ".join(call(env, "jobs", "show", str(third)).stdout.split())


def test_an_extension_keeps_its_list_and_the_rules_and_a_recipe_has_no_job_of_a_database(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer
) -> None:
    del broker
    urls = image_urls(host, "recipe-of-extension", 6)
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    listed("one.txt", urls[:3]), listed("two.txt", urls)
    one = f'path = "one.txt"\nsha256 = "{hashlib.sha256(Path("one.txt").read_bytes()).hexdigest()}"'
    recipe = f'version = 1\nkeywords = ["cat"]\nmax_images = 9\n[urls]\n{one}\n[rules]\nlevel = "strict"\n'
    Path("one.toml").write_text(recipe)

    def build(*words: str) -> int:
        result = call(env, "build", *words)
        assert result.exit_code == 0, result.output
        return newest(runtime)

    with working(runtime):
        first = build("--recipe", "one.toml", "--out", "one")
        words = ("--urls", "two.txt", "--extend", str(first), "--save-recipe", "two.toml", "--out", "two")
        second = build("cat", *words)
        third = build("--recipe", "two.toml", "--extend", str(first), "--out", "three")
    stored = query(runtime, "SELECT count(*) FROM images GROUP BY crawl_job_id")
    assert stored == [(3,)] * 3, "those of its list, and nothing that was searched instead"
    levels = query(runtime, "SELECT validation_rules->>'level' FROM validation_jobs")
    assert levels == [("strict",)] * 3, "the splits are those of near duplicates that the same rules find"
    saved = Path("two.toml").read_text()
    read = tomllib.loads(saved)
    assert (read["urls"]["path"], read["crawl"]["sources"], read["rules"]) == ("two.txt", ["urls"], {"level": "strict"})
    assert saved.startswith(f"# To add to a dataset as job {first} had it: pixcrawler build --recipe FILE --extend")
    assert "extends" not in read["crawl"]
    printed = call(env, "jobs", "show", str(third), "--recipe").stdout
    assert printed.splitlines()[0] == saved.splitlines()[0]

    def without_times(folder: str) -> dict[str, dict[str, str]]:
        return {name: {**row, "crawled_at": ""} for name, row in rows(folder).items()}

    assert without_times("three") == without_times("two")
    assert second < third


def test_a_build_without_new_images_says_that_other_jobs_have_them(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer
) -> None:
    del broker
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    name = listed("all.txt", image_urls(host, "all-known", 2))
    with working(runtime):
        assert call(env, "build", "cat", "--urls", name, "--out", "one").exit_code == 0
        result = call(env, "build", "cat", "--urls", name, "--skip-known", "--out", "two")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "has no images, so there is no dataset: other jobs of the project have all that it found" in said


def test_an_extension_has_the_export_options_of_the_build_before_unless_it_is_given_others(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer
) -> None:
    del broker
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    name = listed("some.txt", image_urls(host, "options", 2))

    def options(*words: str) -> tuple[str, dict[str, Any]]:
        result = call(env, "build", "cat", "--urls", name, *words)
        assert result.exit_code == 0, result.output
        statement = "SELECT format, export_options - 'result' FROM export_jobs ORDER BY id DESC LIMIT 1"
        ((format_, found),) = query(runtime, statement)
        return format_, found

    with working(runtime):
        words = (
            "--layout",
            "flat",
            "--format",
            "tar",
            "--resize",
            "64",
            "--all",
            "--no-failures",
            "--split",
            "a=0.5,b=0.5",
        )
        before = options(*words, "--out", "one")
        first = str(newest(runtime))
        assert options("--extend", first, "--out", "two") == before
        format_, found = options("--extend", first, "--only-valid", "--layout", "coco", "--failures", "--out", "three")
    assert format_ == "zip"
    assert found == {
        "layout": "coco",
        "image": {"resize": {"size": 64}},
        "select": {"only_valid": True},
        "extras": {"failures": True},
        "splits": {"ratios": {"a": 0.5, "b": 0.5}},
    }


def test_an_extension_of_nothing_by_nothing_says_so(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer
) -> None:
    del broker
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    name = listed("gone.txt", [host.url("/fault/404/of-nothing")])
    with working(runtime):
        assert call(env, "build", "cat", "--urls", name, "--out", "one").exit_code == 1
        result = call(env, "build", "cat", "--urls", name, "--extend", str(newest(runtime)), "--out", "two")
    assert result.exit_code == 1
    assert "has no images, and neither have the jobs that it extends, so there" in " ".join(result.stderr.split())
    assert query(runtime, "SELECT count(*) FROM export_jobs") == [(0,)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--extend", "{missing}"), "there is no crawl job {missing}; `pixcrawler jobs list` lists the existing"),
        (("--extend", "{running}"), "crawl job {running} is running: its dataset can be extended when it has ended"),
        (("--extend", "{ended}", "--project", "{foreign}"), "crawl job {ended} belongs to project {project}: give"),
    ],
)
def test_a_job_that_cannot_be_extended_is_named_and_nothing_is_created(
    env: Mapping[str, str], runtime: Runtime, words: Sequence[str], message: str
) -> None:
    project = make_project(runtime.sessions)
    values = {
        "running": make_job(runtime.sessions, project_id=project, status="running"),
        "ended": make_job(runtime.sessions, project_id=project, status="completed"),
        "missing": 1_000_000,
        "project": project,
        "foreign": make_project(runtime.sessions),
    }
    with pytest.raises(PermanentError, match=re.escape(message.format(**values))):
        call(env, "crawl", "cat", *(word.format(**values) for word in words))
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(2,)]


@pytest.mark.parametrize("option", [("--skip-known",), ("--extend", "3")])
def test_a_dry_run_does_not_know_other_jobs(env: Mapping[str, str], option: Sequence[str]) -> None:
    result = call(env, "build", "cat", "--dry-run", *option)
    assert result.exit_code == 2
    assert "leave out --skip-known and --extend" in " ".join(result.stderr.split())


def test_an_extension_belongs_to_the_project_of_what_it_extends(env: Mapping[str, str], runtime: Runtime) -> None:
    project = make_project(runtime.sessions)
    base = make_job(runtime.sessions, project_id=project, status="failed")
    result = call(env, "crawl", "cat", "--extend", str(base))
    assert result.exit_code == 0, result.output
    assert query(runtime, "SELECT project_id FROM crawl_jobs WHERE id = :id", id=int(result.stdout)) == [(project,)]

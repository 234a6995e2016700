"""Recipes: read with clear errors, saved, printed, and built again to the same bytes."""

import gc
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ledger
import pytest
import redis
from building import working
from calls import call
from doubles import image_urls, query
from fakes import hosts
from fakes.hosts import HostileServer

from pixcrawler_worker.cli import recipes
from pixcrawler_worker.crawl.options import parse
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

#: A command that can write files of ten bytes.
WITHOUT_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
from pixcrawler_worker.cli.main import main
main()
"""


@pytest.fixture
def host() -> Iterator[HostileServer]:
    with hosts.serving() as server:
        yield server


def archives(runtime: Runtime) -> dict[str, bytes]:
    """Return the archives of the newest export."""
    ((export_id, result),) = query(
        runtime, "SELECT id, export_options->'result' FROM export_jobs ORDER BY id DESC LIMIT 1"
    )
    names = [part["name"] for part in result["parts"]]
    return {name: runtime.run(runtime.storage.get(f"exports/{export_id}/{name}")) for name in names}


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset"])
def test_a_recipe_gives_the_same_archive_again(
    env: Mapping[str, str], runtime: Runtime, broker: redis.Redis, host: HostileServer, layout: str
) -> None:
    del broker
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    urls = image_urls(host, f"recipe-{layout}", 9)
    # Some files have several URLs, and some URLs have no file.
    listed = [url for url in urls for url in (url, url.removesuffix(".jpg"), host.url(f"/fault/404/{url[-5:]}"))]
    Path("lists").mkdir()
    Path("lists/cats.txt").write_text("\n".join(listed))
    chosen = ["--max-images", "6", "--split", "train=0.5,test=0.5", "--min-width", "48", "--layout", layout]
    made = []
    with working(runtime):
        words = ["build", "cat", "--urls", "lists/cats.txt", *chosen, "--out", "one", "--save-recipe", "lists/r.toml"]
        assert (result := call(env, *words)).exit_code == 0, result.output
        made.append(archives(runtime))
        # Another day, and another job.
        ledger.execute(runtime.sessions, "UPDATE pixcrawler.image_facts SET crawled_at = '2020-01-02'")
        assert (result := call(env, "build", "--recipe", "lists/r.toml", "--out", "two")).exit_code == 0, result.output
        made.append(archives(runtime))
    assert made[0] == made[1]
    assert len(made[0]) == (1 if layout == "imagefolder" else 2)
    stored = query(runtime, "SELECT original_url FROM images")
    assert sorted(stored) == sorted([(url,) for url in urls[:6]] * 2), (
        "the first ones of the list, each by its first URL"
    )
    saved = tomllib.loads(Path("lists/r.toml").read_text())
    assert saved["urls"]["path"] == "cats.txt"
    assert (saved["crawl"]["min_width"], saved["crawl"]["sources"], saved["max_images"]) == (48, ["urls"], 6)
    assert saved["export"]["splits"] == {
        "ratios": {"train": 0.5, "test": 0.5}, "seed": 0, "by": "duplicate_group"
    }  # fmt: skip
    for (job_id,) in query(runtime, "SELECT id FROM crawl_jobs"):
        printed = tomllib.loads(call(env, "jobs", "show", str(job_id), "--recipe").stdout)
        assert printed.pop("urls") == {**saved["urls"], "path": str(Path("lists/cats.txt").absolute())}
        assert printed == {name: value for name, value in saved.items() if name != "urls"}


GOOD = """version = 1
keywords = ["cat", "dog"]
max_images = 20
format = "zip"

[crawl]
sources = ["commons"]
min_width = 64

[rules]
level = "strict"

[export]
layout = "flat"

[export.splits]
seed = 3
ratios = { train = 0.5, test = 0.5 }
"""


def test_a_recipe_is_what_was_written() -> None:
    Path("r.toml").write_text(GOOD, encoding="utf-8-sig")
    recipe = recipes.read(Path("r.toml"))
    assert recipe.keywords == ("cat", "dog")
    assert (recipe.crawl.min_width, recipe.export.layout, recipe.export.splits.seed) == (64, "flat", 3)
    Path("again.toml").write_text(recipe.to_toml())
    assert recipes.read(Path("again.toml")) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "version = 1",
            "version = 2",
            "r.toml is a recipe of version 2, and this PixCrawler knows recipes up to versi",
        ),
        ("version = 1", "", "r.toml is no recipe: expected version = 1"),
        ("version = 1", 'version = "1"', 'r.toml: version: expected 1, got "1"'),
        ("max_images = 20", "max_imags = 20", "r.toml, line 3: max_imags: unknown option, did you mean 'max_images'?"),
        ("max_images = 20", 'max_images = "2"', 'line 3: max_images: expected an integer of at least 1, got "2"'),
        ("max_images = 20", "max_images = 1979-05-27", "line 3: max_images: expected an integer of at least 1, got a"),
        ("min_width = 64", "min_widht = 64", "r.toml, line 8: crawl.min_widht: unknown option, did you mean 'min_wid"),
        ("min_width = 64", "min_width = 0.5", "line 8: crawl.min_width: expected an integer of at least 1, got 0.5"),
        ("seed = 3", "sed = 3", "r.toml, line 17: export.splits.sed: unknown option, did you mean 'seed'?"),
        ("train = 0.5,", "train = 0,", "r.toml, line 18: export.splits.ratios.train: expected a number above 0, got 0"),
        ('layout = "flat"', 'layout = "flatt"', "line 14: export.layout: there is no layout 'flatt'; did you mean"),
        ('format = "zip"', 'format = "csv"', "r.toml, line 14: export.layout: flat is delivered as tar, zip, not as"),
        ('format = "zip"', 'format = "rar"', "r.toml, line 4: format: there is no 'rar'; did you mean 'tar'?"),
        ('level = "strict"', "levle = 1", "r.toml, line 11: rules.levle: unknown option, did you mean 'level'?"),
        ('"cat", "dog"', '"cat", 7', "r.toml, line 2: keywords"),
        ('["cat", "dog"]', "[]", "r.toml, line 2: keywords: expected at least 1 entries, got an array"),
        ("[crawl]", "[crawl", "r.toml is not valid TOML: "),
        ("version = 1", f"version = {'9' * 5000}", "r.toml is not valid TOML: "),
        ("max_images = 20", "", "r.toml: max_images is missing"),
        ("[crawl]", "[urls]\npath = 'a'\n[crawl]", "r.toml: urls.sha256 is missing"),
        (
            "min_width = 64",
            '"min width" = 64',
            'r.toml, line 8: crawl."min width": unknown option, did you mean \'min_w',
        ),
        (
            '"cat", "dog"',
            "1979-05-27",
            "line 2: keywords[0] must be a string or an object with a query, not 1979-05-27",
        ),
        ('format = "zip"', 'format = ""', "r.toml, line 4: format: there is no ''; known are zip, tar, csv"),
        ("min_width = 64", "synonyms = {kat = ['x']}", "line 8: crawl.synonyms: there is no keyword 'kat' in the job"),
        ("min_width = 64", "extends = 3", "line 8: crawl.extends: a recipe does not depend on the jobs of a database"),
        ("min_width = 64", "skip_known = true", "line 8: crawl.skip_known: a recipe does not depend on the jobs of"),
        (
            "min_width = 64",
            'urls = ["https://a.org/b"]',
            "line 8: crawl.urls: a recipe has no URLs: name a file with the",
        ),
        (
            "[crawl]",
            f"[urls]\npath = 'a'\nsha256 = '{'0' * 64}'\n[crawl]",
            "line 2: keywords: a URL list has one label",
        ),
        (
            "[crawl]",
            f"[urls]\npath = 'https://a:pass@b.org/c'\nsha256 = '{'0' * 64}'\n[crawl]",
            "r.toml, line 7: urls.path: expected a path, or a URL without password and parameters",
        ),
        ("[crawl]", "[urls]\npath = 'a'\nsha256 = 'b'\n[crawl]", "line 8: urls.sha256: expected a SHA-256 of 64 hex"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    Path("r.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(PermanentError, match=re.escape(message)) as caught:
        recipes.read(Path("r.toml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_recipe_is_named() -> None:
    Path("image.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(PermanentError, match=r"image\.jpg is no recipe: it is not UTF-8"):
        recipes.read(Path("image.jpg"))
    with pytest.raises(PermanentError, match="could not be read: Is a directory"):
        recipes.read(Path())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cat", "--recipe", "r.toml"), "a recipe has its keywords and options already: combine --recipe with --out"),
        (("--recipe", "r.toml", "--min-width", "3"), "a recipe has its keywords and options already"),
        (("--recipe", "r.toml", "--layout", "flat"), "a recipe has its keywords and options already"),
        (("--recipe", "r.toml", "--wait", "0"), "a recipe has its keywords and options already"),
        (("--recipe", "r.toml", "--label-column", ""), "a recipe has its keywords and options already"),
        (("--recipe", "r.toml", "--skip-known"), "a recipe has its keywords and options already"),
        (
            ("--recipe", "r.toml", "--dry-run", "--extend", "3"),
            "--dry-run reads no database, so it does not know other",
        ),
        (("--job", "3", "--wait", "0"), "a job has its keywords and options already"),
        (("cat", "--skip-known", "--save-recipe", "n.toml"), "so no recipe gives these images again"),
        (("--recipe", "r.toml", "--job", "3"), "a recipe has its keywords and options already"),
        (("--recipe", "r.toml"), "there is no source 'comons'; did you mean 'commons'?"),
        (("--recipe", "gone.toml"), "gone.txt, the list of gone.toml: No such file or directory"),
        (("--recipe", "changed.toml"), "cats.txt has changed since the recipe was saved: its SHA-256 is "),
        (("cat", "--save-recipe", "r.toml"), "r.toml exists already: name a new file with --save-recipe"),
        (("--job", "3", "--save-recipe", "n.toml"), "pixcrawler jobs show 3 --recipe prints its recipe"),
        (
            ("cat", "--dry-run", "--save-recipe", "n.toml"),
            "--save-recipe is for a build without --dry-run and --recipe",
        ),
    ],
)
def test_what_does_not_fit_to_a_recipe_is_an_error(
    env: Mapping[str, str], words: tuple[str, ...], message: str
) -> None:
    Path("cats.txt").write_text("https://example.org/1.jpg")
    Path("r.toml").write_text(GOOD.replace('"commons"', '"comons"'))
    one = 'version = 1\nkeywords = ["cat"]\nmax_images = 1\n'
    for name, path in (("gone", "gone.txt"), ("changed", "cats.txt")):
        Path(f"{name}.toml").write_text(f'{one}[urls]\npath = "{path}"\nsha256 = "{"0" * 64}"\n')
    result = call(env, "build", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not Path("n.toml").exists()


def test_a_list_from_stdin_has_no_recipe(env: Mapping[str, str], runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    with pytest.raises(PermanentError, match="the list must not come from stdin"):
        call(env, "build", "cat", "--urls", "-", "--save-recipe", "n.toml", stdin="https://example.org/1.jpg")
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]
    assert not Path("n.toml").exists()


def test_a_dry_run_searches_what_a_recipe_without_a_list_names(env: Mapping[str, str]) -> None:
    Path("r.toml").write_text('version = 1\nkeywords = ["cat"]\nmax_images = 2\n[crawl]\nsources = ["commons"]\n')
    result = call({**env, "PIXCRAWLER_COMMONS_URL": "http://127.0.0.1:1/"}, "build", "--recipe", "r.toml", "--dry-run")
    assert result.exit_code == 1, result.output
    assert "nothing would be downloaded" in result.stdout
    del result
    gc.collect()  # what is left open would warn now, which fails this test


@pytest.mark.parametrize(
    ("build", "format_", "layout", "ratios"),
    [
        ({}, "zip", "imagefolder", None),
        ({"format": "tar"}, "tar", "webdataset", None),
        ({"options": {"layout": "yolo"}}, "zip", "yolo", {"train": 0.8, "val": 0.1, "test": 0.1}),
        ({"options": {"layout": "yolo", "splits": {"ratios": {"all": 1}}}}, "zip", "yolo", {"all": 1.0}),
    ],
)
def test_a_recipe_has_no_defaults_that_another_version_may_change(
    runtime: Runtime, build: Mapping[str, Any], format_: str, layout: str, ratios: Mapping[str, float] | None
) -> None:
    made = recipes.make(runtime, keywords=["cat"], max_images=3, crawl=parse({"sources": ["urls"]}), build=build)
    saved = tomllib.loads(made.to_toml())
    assert (saved["format"], saved["export"]["layout"]) == (format_, layout)
    assert saved["export"].get("splits", {}).get("ratios") == ratios
    assert saved["crawl"].keys().isdisjoint({"skip_known", "extends"})


def test_a_recipe_names_its_list_from_where_the_directory_really_is(
    env: Mapping[str, str], runtime: Runtime, host: HostileServer
) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    env = {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}
    Path("real/below").mkdir(parents=True)
    Path("link").symlink_to("real/below")
    Path("list.txt").write_text("\n".join(image_urls(host, "linked", 2)))
    with working(runtime):
        words = ["build", "cat", "--urls", "list.txt", "--save-recipe", "link/r.toml", "--out", "one"]
        assert (result := call(env, *words)).exit_code == 0, result.output
        assert (result := call(env, "build", "--recipe", "link/r.toml", "--out", "two")).exit_code == 0, result.output


def test_a_list_that_a_recipe_cannot_name_is_an_error(env: Mapping[str, str], runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    name = os.fsdecode(b"cats-\xff.txt")
    Path(name).write_text("https://example.org/1.jpg")
    with pytest.raises(PermanentError, match="the name of this one has characters that TOML does not have: rename it"):
        call(env, "build", "cat", "--urls", name, "--save-recipe", "n.toml")
    assert not Path("n.toml").exists()


def test_a_build_that_cannot_begin_leaves_no_recipe(env: Mapping[str, str], runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    with pytest.raises(PermanentError, match="there is no crawl job 1000000"):
        call(env, "build", "cat", "--source", "commons", "--extend", "1000000", "--save-recipe", "n.toml")
    assert not Path("n.toml").exists(), "the same command works when the reason is gone"


def test_a_recipe_that_there_is_no_room_for_is_not_left_in_part(env: Mapping[str, str], runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    words = ["build", "cat", "--source", "commons", "--save-recipe", "n.toml"]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM, *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "pixcrawler: n.toml could not be written: File too large\n")
    assert not Path("n.toml").exists(), "the same command works when there is room"
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]


def test_a_job_that_left_out_what_others_have_has_no_recipe(env: Mapping[str, str], runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    job_id = call(env, "crawl", "cat", "--source", "commons", "--skip-known").stdout.strip()
    with pytest.raises(PermanentError, match=f"job {job_id} has left out what other jobs had"):
        call(env, "jobs", "show", job_id, "--recipe")

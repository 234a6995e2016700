"""`pixcrawler crawl`, called in this process with real services behind it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ledger
import pytest
import redis
from calls import DEAD, call, sent
from doubles import query
from factories import make_job, make_project
from fakes.postgres_proxy import postgres_proxy

from pixcrawler_worker.cli import new_jobs
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import options
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import session
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    ledger.execute(sessions, "DELETE FROM profiles")


def test_crawl_writes_row_and_plan_sends_the_message_and_prints_the_id(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("# cats\n\nhttps://example.org/1.jpg\nhttps://example.org/2.jpg\n")
    result = call(env, "crawl", "cat", "--urls", "list.txt", "--source", "urls")
    assert result.stderr == ""
    job_id = int(result.stdout)
    assert query(runtime, "SELECT name, keywords, max_images, status FROM crawl_jobs WHERE id = :id", id=job_id) == [
        ("cat", ["cat"], 2, "pending")
    ]
    assert query(runtime, "SELECT options->'sources', round FROM pixcrawler.crawl_plans") == [(["urls"], 0)]
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [
        (["https://example.org/1.jpg", "https://example.org/2.jpg"],)
    ]
    assert sent(broker) == [("pixcrawler.crawl.start", [job_id, {}])]
    assert len(submission.start(runtime, CRAWL, job_id, {})) == 1


def test_crawl_takes_a_list_from_stdin(env: Mapping[str, str], broker: redis.Redis, runtime: Runtime) -> None:
    call(env, "crawl", "cat", "--urls", "-", stdin="https://example.org/1.jpg\r\n")
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(["https://example.org/1.jpg"],)]


def test_crawl_has_names_numbers_and_projects(env: Mapping[str, str], broker: redis.Redis, sessions: Sessions) -> None:
    project = make_project(sessions)
    words = ("crawl", "red panda", "snow leopard", "--max-images", "20", "--name", "big", "--project", str(project))
    job_id = int(call(env, *words).stdout)
    job = ledger.crawl_job(sessions, JobRef(CRAWL_JOBS, job_id))
    assert (job.name, job.keywords, job.max_images) == ("big", ["red panda", "snow leopard"], 20)
    assert job.project_id == project
    plain = ledger.crawl_job(sessions, JobRef(CRAWL_JOBS, int(call(env, "crawl", "cat", "dog").stdout)))
    assert (plain.name, plain.max_images) == ("cat, dog", 1000)
    # As Python reads an argument that is no UTF-8.
    odd = ledger.crawl_job(sessions, JobRef(CRAWL_JOBS, int(call(env, "crawl", "cat", "--name", "\udcff").stdout)))
    assert odd.name == "?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["   "], "keywords[0] is blank"),
        (["x" * 300], "keywords[0] has 300 characters; at most 200 are allowed"),
        (["cat\x00dog"], "keywords[0] has control characters"),
        (["cat", "--urls", "blank.txt"], "blank.txt contains no URLs: expected one per line"),
        (["cat", "dog", "--urls", "list.txt"], "a URL list has one label: give one KEYWORD with --urls"),
        (["cat", "--source", "comons"], "there is no source 'comons'; did you mean 'commons'?"),
        (["cat", "--license", "cc-bye"], "there is no license 'cc-bye'; did you mean 'cc-by'?"),
        (["cat", "--sourse", "commons"], "No such option '--sourse'."),
        (["cat", "--min-width", "wide"], "expected an integer, got 'wide'"),
        (["cat", "--target-side", "0"], "0 is not between 1 and"),
        (["cat", "--variant", "close-up"], "options.variants[0]: expected {keyword} in it"),
        (["cat", "--variant", "{keyword} {size}"], "there is no placeholder {size}; the only one is {keyword}"),
        (["cat", *["--variant", "{keyword}"] * 21], "options.variants: expected at most 20 entries"),
        (["dog", "--synonyms", "synonyms.csv"], "there is no keyword 'cat' in the job, which has 'dog'"),
        (["cat", "Katze", "--synonyms", "synonyms.csv"], "'Katze' of 'cat' is searched for 'Katze', too"),
        (["cat", "--synonyms", "blank.txt"], "blank.txt has no synonyms: expected a keyword and its synonyms"),
        (["cat", "--synonyms", "missing.csv"], "'missing.csv': No such file"),
        (["cat", "--urls", "list.txt", "--variant", "a {keyword}"], "nothing is searched for a URL list"),
    ],
)
def test_invalid_arguments_create_nothing(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, words: list[str], message: str
) -> None:
    Path("blank.txt").write_text("\n# nothing\n")
    Path("list.txt").write_text("https://example.org/1.jpg\n")
    Path("synonyms.csv").write_text("cat,kitten,Katze\n")
    for command in ("crawl", "build"):
        result = call(env, command, *words)
        assert result.exit_code == 2
        assert message in result.stderr
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]
    assert sent(broker) == []


def test_there_must_be_a_project(env: Mapping[str, str], broker: redis.Redis, runtime: Runtime) -> None:
    with pytest.raises(PermanentError, match="there is no project 424242"):
        call(env, "crawl", "cat", "--project", "424242")
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]
    assert sent(broker) == []


def test_the_options_of_a_crawl_are_recorded(env: Mapping[str, str], broker: redis.Redis, runtime: Runtime) -> None:
    words = ["--source", "openverse", "--source", "commons", "--license", "CC BY 4.0", "--license", "cc0"]
    call(
        env,
        "crawl",
        "\U0001f43c",
        "\U0001f43c",
        *words,
        "--min-width",
        "640",
        "--min-height",
        "480",
        "--ignore-robots",
        "--target-side",
        "224",
    )
    ((kept,),) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans")
    assert (kept["sources"], kept["licenses"]) == (["openverse", "commons"], ["cc-by-4.0", "cc0"])
    assert (kept["min_width"], kept["min_height"], kept["target_side"]) == (640, 480, 224)
    assert (kept.get("respect_opt_outs"), kept.get("respect_robots")) == (None, False)
    call(env, "crawl", "other", "--ignore-opt-outs")
    (kept,) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans ORDER BY crawl_job_id DESC LIMIT 1")[0]
    assert (kept.get("respect_opt_outs"), kept.get("respect_robots")) == (False, None)


def test_variants_and_synonyms_are_options_of_the_crawl(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime
) -> None:
    Path("synonyms.json").write_text('{"cat": ["kitten", "Katze"]}')
    words = ["--variant", "{keyword} close-up", "--variant", "a {keyword}", "--synonyms", "synonyms.json"]
    assert call(env, "crawl", "cat", "dog", *words).exit_code == 0
    ((kept, keywords),) = query(
        runtime, "SELECT options, keywords FROM crawl_jobs JOIN pixcrawler.crawl_plans ON crawl_job_id = id"
    )
    assert kept["variants"] == ["{keyword} close-up", "a {keyword}"]
    assert kept["synonyms"] == {"cat": ["kitten", "Katze"]}
    assert keywords == ["cat", "dog"]


def test_with_a_dead_broker_a_job_is_stored_and_one_line_says_so(env: Mapping[str, str], runtime: Runtime) -> None:
    result = call({**env, **DEAD}, "crawl", "cat", "--max-images", "3")
    job_id = int(result.stdout)
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert f"job {job_id} is stored, and the next sweep of a worker starts it" in result.stderr
    assert "hunter2" not in result.stderr
    assert query(runtime, "SELECT crawl_job_id FROM pixcrawler.crawl_plans") == [(job_id,)]


def test_without_a_broker_nothing_is_created(env: Mapping[str, str], runtime: Runtime) -> None:
    without = {name: value for name, value in env.items() if "BROKER" not in name}
    with pytest.raises(PermanentError, match="no broker is configured: set PIXCRAWLER_BROKER_URL"):
        call(without, "crawl", "cat")
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]


def test_services_in_a_file_are_used_for_messages_too(
    env: Mapping[str, str], broker: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    job_id = int(call({}, "crawl", "cat").stdout)
    assert sent(broker) == [("pixcrawler.crawl.start", [job_id, {}])]


def test_crawl_with_watch_exits_as_its_job_ends(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("https://example.org/1.jpg")
    ledger.execute(
        runtime.sessions,
        "CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.status := 'failed'; NEW.completed_at := now(); RETURN NEW; END $$",
    )
    ledger.execute(
        runtime.sessions, "CREATE TRIGGER ending BEFORE INSERT ON crawl_jobs FOR EACH ROW EXECUTE FUNCTION end_it()"
    )
    try:
        result = call(env, "crawl", "cat", "--urls", "list.txt", "--watch")
    finally:
        ledger.execute(runtime.sessions, "DROP FUNCTION end_it CASCADE")
    job_id, output = result.stdout.splitlines()
    assert output == f"job {job_id} failed: 0 of 1 images, 0 of 0 chunks"
    assert result.exit_code == 1


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize(
    ("table", "create"),
    [
        (
            "crawl_jobs",
            lambda runtime, _: new_jobs.create_crawl(runtime, CrawlArguments(("cat",), options.parse({}), 5)),
        ),
        ("validation_jobs", lambda runtime, job: new_jobs.create_validation(runtime, job, name="check", rules={})),
        (
            "export_jobs",
            lambda runtime, job: new_jobs.create_export(runtime, job, name="archive", format_="zip", options={}),
        ),
    ],
)
def test_a_job_whose_commit_has_no_answer_is_created_once(
    runtime: Runtime,
    database_url: str,
    table: str,
    create: Callable[[Runtime, int], int],
    *,
    done: bool,
) -> None:
    """Workers would run both of them: their requests are recorded."""
    crawl_id = make_job(runtime.sessions)
    before = query(runtime, f"SELECT id FROM {table}")
    with postgres_proxy(database_url) as wire:
        engine = session.connect(wire.url, pool_size=1)
        with engine.connect():  # what is asked on a first connection is committed, too
            pass
        wire.cut_commit(done=done)
        created = create(replace(runtime, sessions=session.sessions(engine)), crawl_id)
        engine.dispose()
    assert wire.cuts == 1
    assert sorted(query(runtime, f"SELECT id FROM {table}")) == sorted([*before, (created,)])

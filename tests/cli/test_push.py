"""`pixcrawler push`, with a stand-in for the hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import ledger
import pytest
from calls import call
from export import exporting
from export.exporting import stored_images
from fakes import hub as fake
from fakes.hub import Hub

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

# Of huggingface_hub's own requests.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def served() -> Iterator[Hub]:
    with fake.serving() as server:
        yield server


@pytest.fixture
def environment(env: Mapping[str, str], served: Hub, runtime: Runtime, tmp_path: Path) -> Mapping[str, str]:
    return {
        **env,
        "PIXCRAWLER_STORAGE_URL": runtime.settings.storage(),
        "HF_ENDPOINT": served.endpoint,
        "HF_TOKEN": served.token,
        "HF_HOME": str(tmp_path / "home"),
    }


def test_the_newest_export_of_a_job_is_published_with_its_card(
    environment: Mapping[str, str], served: Hub, runtime: Runtime
) -> None:
    job = exporting.crawl_of(runtime, stored_images(5))
    exporting.export(runtime, job, {"select": {"limit": 1}})
    ref = exporting.export(runtime, job, {"extras": {"failures": True}})
    exporting.export(runtime, job, {"layout": "webdataset"}, format_="tar")
    result = call(environment, "push", str(job), "hf://ada/cats", "--private")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"{served.endpoint}/datasets/ada/cats"
    files = dict(served.repositories["ada/cats"])
    del files[".gitattributes"]
    assert files == exporting.made(runtime, ref)
    assert served.private == {"ada/cats"}
    assert b"license: " in files["README.md"]
    assert "ATTRIBUTION.txt" in files


def test_what_cannot_be_published_is_an_error_that_says_what_to_do(
    environment: Mapping[str, str], served: Hub, runtime: Runtime
) -> None:
    def message(*words: str) -> str:
        with pytest.raises(PermanentError) as caught:
            call(environment, "push", *words)
        return str(caught.value)

    job = exporting.crawl_of(runtime, stored_images(2))
    command = f"pixcrawler export {job} --watch makes one"
    assert command in message(str(job), "hf://ada/cats")
    tar = exporting.export(runtime, job, {"layout": "webdataset"}, format_="tar")
    assert command in message(f"export:{tar.id}", "hf://ada/cats")
    pending = exporting.make_export(runtime, job)
    assert f"pixcrawler jobs show export:{pending.id} says why" in message(f"export:{pending.id}", "hf://ada/cats")
    assert "is no export" in message("validation:1", "hf://ada/cats")
    assert "there is no" in message("export:99999", "hf://ada/cats")
    assert "expected hf://OWNER/NAME" in message(str(job), "ada/cats")
    assert served.repositories == {}

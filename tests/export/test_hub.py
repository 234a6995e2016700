"""Publishing on a stand-in for the hub: all of a dataset in one commit, whatever happens on the way."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import hub as fake
from fakes.hub import Hub

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.export import hub

# Of huggingface_hub's own requests.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "ada/red-pandas"
IMAGES = {f"images/red panda/{number}.jpg": b"\xff\xd8\0" + bytes([number]) * 100 for number in range(8)}
CARD = b"---\nlicense: cc0-1.0\n---\n# Red pandas\n"
FILES = {"README.md": CARD, "metadata.jsonl": b'{"file_name": "images/0.jpg"}\n', "empty.txt": b"", **IMAGES}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake.serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "dataset"


def push(folder: Path, *, private: bool = False, replace: bool = False) -> str:
    return hub.push(folder, NAME, private=private, replace=replace)


def pushed(served: Hub) -> dict[str, bytes]:
    files = dict(served.repositories[NAME])
    del files[".gitattributes"]
    return files


@pytest.mark.parametrize("target", ["hf://ada/red-pandas", "hf://datasets/ada/red-pandas", "hf://ada/red-pandas/"])
def test_a_target_names_a_dataset(target: str) -> None:
    assert hub.repository(target) == NAME


@pytest.mark.parametrize(
    "target",
    ["ada/red-pandas", "hf://ada", "hf://", "https://example.org/a/b", "hf://a/b/c", "hf://a/../b", "hf://-a/b"],
)
def test_another_target_is_rejected(target: str) -> None:
    with pytest.raises(PermanentError, match="expected hf://OWNER/NAME"):
        hub.repository(target)


@pytest.mark.parametrize("private", [False, True])
def test_a_dataset_is_pushed_whole_in_one_commit(served: Hub, folder: Path, *, private: bool) -> None:
    assert push(folder, private=private) == f"{served.endpoint}/datasets/{NAME}"
    assert pushed(served) == FILES
    assert served.commits == 1
    assert set(served.cards) == {CARD.decode()}
    assert (NAME in served.private) is private


def test_pushing_again_uploads_nothing_twice(served: Hub, folder: Path) -> None:
    push(folder)
    push(folder)
    assert (served.uploads, served.commits) == (len(IMAGES), 1)
    assert pushed(served) == FILES


def test_files_that_the_dataset_has_not_are_deleted_only_when_that_is_wanted(served: Hub, folder: Path) -> None:
    push(folder)
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    (folder / "images" / "new.jpg").write_bytes(b"\xff\xd8\0new")
    with pytest.raises(PermanentError, match=r"has 8 files that this dataset has not, such as images/.*--replace"):
        push(folder)
    assert pushed(served) == FILES
    push(folder, replace=True)
    expected = {name: content for name, content in FILES.items() if name not in IMAGES}
    assert pushed(served) == {**expected, "images/new.jpg": b"\xff\xd8\0new"}


def test_a_gitignore_on_the_hub_leaves_out_no_image(served: Hub, folder: Path) -> None:
    served.repositories[NAME] = {".gitattributes": b"", ".gitignore": b"*.jpg\n"}
    push(folder, replace=True)
    assert pushed(served) == FILES


def test_a_private_push_is_never_published(served: Hub, folder: Path) -> None:
    served.repositories[NAME] = {".gitattributes": b""}
    with pytest.raises(PermanentError, match="red-pandas exists and is public, and --private is for a new dataset"):
        push(folder, private=True)
    assert (served.uploads, pushed(served)) == (0, {})
    served.private.add(NAME)
    push(folder, private=True)
    assert pushed(served) == FILES


def test_of_two_pushes_at_once_one_is_told_to_be_repeated(served: Hub, folder: Path, tmp_path: Path) -> None:
    """The other push begins and ends while the first one uploads."""
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "images" / "other.jpg").write_bytes(b"\xff\xd8\0other")
    begun: list[bool] = []

    def push_other(method: str, _: str) -> None:
        if method == "PUT" and not begun:
            begun.append(True)
            push(other)

    served.before = push_other
    with pytest.raises(TransientError, match=r"was changed on .* while this was uploaded: type the same command again"):
        push(folder)
    assert pushed(served) == {"images/other.jpg": b"\xff\xd8\0other"}, "not a mixture of both"
    with pytest.raises(PermanentError, match="has 1 file that this dataset has not"):
        push(folder)


@pytest.mark.parametrize("endpoint", ["hf.co", "ftp://hf.co", "https://", "https://[", "http://hf.co:x"])
def test_an_endpoint_that_is_no_url_is_an_error_that_names_the_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(PermanentError, match=r"HF_ENDPOINT: expected a URL such as https://huggingface\.co, got "):
        push(folder)


def test_an_endpoint_may_end_in_a_slash(served: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{served.endpoint}/")
    push(folder)
    assert pushed(served) == FILES


@pytest.mark.parametrize("token", ["hf_s\u00e9cret", "hf_se\x01cret", "hf_se\ncret"])
def test_a_token_that_was_copied_badly_is_an_error_without_it(
    served: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermanentError, match="HF_TOKEN has characters that no token has: copy it again") as caught:
        push(folder)
    assert "cret" not in str(caught.value)
    assert served.repositories == {}


def test_more_files_than_the_hub_takes_at_once_are_not_uploaded_in_parts(served: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(25_001):
        (folder / f"{number}.jpg").touch()
    with pytest.raises(PermanentError, match=r"has 25,001 files, and the hub takes up to 25,000 at once: .* parquet"):
        push(folder)
    assert served.repositories == {}


def test_a_token_without_rights_is_an_error_that_names_the_variable(
    served: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    with pytest.raises(PermanentError, match="set HF_TOKEN to a token with write access") as caught:
        push(folder)
    assert "hf_wrong_secret" not in str(caught.value)
    assert served.repositories == {}


def test_a_push_that_is_rejected_half_way_leaves_nothing_and_goes_on(served: Hub, folder: Path) -> None:
    served.before = lambda _, path: 400 if path.endswith("/commit/main") else None
    with pytest.raises(PermanentError, match=f"rejected {NAME} with 400: "):
        push(folder)
    assert pushed(served) == {}
    served.before = None
    push(folder)
    assert pushed(served) == FILES
    assert (served.uploads, served.commits) == (len(IMAGES), 1)


def test_an_upload_that_fails_names_the_reason_of_the_hub(served: Hub, folder: Path) -> None:
    served.before = lambda method, _: 403 if method == "PUT" else None
    with pytest.raises(PermanentError, match="does not let you write"):
        push(folder)
    assert pushed(served) == {}


_TOKEN = "does not let you write ada/red-pandas: set HF_TOKEN to a token with write access"
_LARGE = "takes no files of this size, or has no room for them: export smaller images"
_LATER = "type the same command later, and it uploads what is missing"


@pytest.mark.parametrize(
    ("status", "at", "message"),
    [
        (403, "PUT", _TOKEN),
        (413, "PUT", _LARGE),
        (403, "POST", _TOKEN),
        (413, "POST", _LARGE),
        (429, "POST", f"limits requests (429): {_LATER}"),
        (500, "POST", f"has an error (500): {_LATER}"),
    ],
)
def test_a_hub_that_rejects_half_way_says_why_and_the_next_push_completes(
    served: Hub, folder: Path, status: int, at: str, message: str
) -> None:
    """After half of the uploads, or at the commit."""

    def reject(method: str, path: str) -> int | None:
        is_half = method == "PUT" and served.uploads >= len(IMAGES) // 2
        return status if method == at and (is_half or path.endswith("/commit/main")) else None

    served.before = reject
    error = TransientError if _LATER in message else PermanentError
    with pytest.raises(error, match=re.escape(message)) as caught:
        push(folder)
    assert served.endpoint in str(caught.value)
    assert pushed(served) == {}, "others see nothing of it"
    assert served.uploads >= len(IMAGES) // 2
    served.before = None
    push(folder)
    assert pushed(served) == FILES
    assert (served.uploads, served.commits) == (len(IMAGES), 1)


def reject_one_upload(served: Hub) -> list[str]:
    """Have the hub be busy for the first upload; return its path once that has happened."""
    rejected: list[str] = []

    def reject_once(method: str, path: str) -> int | None:
        if method != "PUT" or rejected:
            return None
        rejected.append(path)
        return 503

    served.before = reject_once
    return rejected


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(served: Hub, folder: Path) -> None:
    rejected = reject_one_upload(served)
    push(folder)
    assert pushed(served) == FILES
    assert len(rejected) == 1


def test_the_presigned_url_of_an_upload_is_printed_nowhere(served: Hub, folder: Path) -> None:
    rejected = reject_one_upload(served)
    words = [sys.executable, "-c", PUSHING, str(folder), NAME]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100)
    assert rejected
    assert ran.stdout + ran.stderr == "", "not a line for each request that is tried again"
    served.before = lambda method, _: 403 if method == "PUT" else None
    (folder / "new.jpg").write_bytes(b"\xff\xd8\0new")
    with pytest.raises(PermanentError, match="does not let you write") as caught:
        push(folder)
    assert fake.SIGNATURE not in str(caught.value)


def test_a_hub_that_is_away_is_said_to_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(TransientError, match=r"http://127.0.0.1:1 does not answer: "):
        push(folder)


def test_many_files_are_one_commit_with_the_uploads_that_are_usual_today(served: Hub, folder: Path) -> None:
    """Not `upload_folder`: where hf_xet is installed, that commits some hundred files at a time."""
    shutil.rmtree(folder / "images")
    texts = {f"{number}.txt": b"%d" % number for number in range(700)}
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    words = [sys.executable, "-c", PUSHING, str(folder), NAME]
    subprocess.run(words, env={**os.environ, "HF_HUB_DISABLE_XET": "0"}, check=True, timeout=100)
    assert pushed(served).items() >= texts.items()
    assert served.commits == 1


PUSHING = """
import sys
from pathlib import Path
from pixcrawler_worker.export import hub
hub.push(Path(sys.argv[1]), sys.argv[2], private=False, replace=False)
"""


def test_a_push_that_was_killed_half_way_is_complete_when_it_is_repeated(served: Hub, folder: Path) -> None:
    def stall(method: str, path: str) -> int | None:
        if method == "PUT" and served.uploads >= len(IMAGES) // 2:
            time.sleep(30)
        return None

    served.before = stall
    with subprocess.Popen([sys.executable, "-c", PUSHING, str(folder), NAME]) as process:
        deadline = time.monotonic() + 60
        while served.uploads < len(IMAGES) // 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert pushed(served) == {}
    before = served.uploads
    served.before = None
    push(folder)
    assert pushed(served) == FILES
    assert served.uploads - before <= len(IMAGES) - len(IMAGES) // 2
    assert served.commits == 1


def test_a_push_that_was_killed_when_it_was_complete_is_not_committed_twice(served: Hub, folder: Path) -> None:
    committed, ended = threading.Event(), threading.Event()

    def stall() -> None:
        committed.set()
        ended.wait(30)

    served.after_commit = stall
    with subprocess.Popen([sys.executable, "-c", PUSHING, str(folder), NAME]) as process:
        assert committed.wait(60)
        os.kill(process.pid, signal.SIGKILL)
    ended.set()
    served.after_commit = None
    push(folder)
    assert pushed(served) == FILES
    assert (served.uploads, served.commits) == (len(IMAGES), 1)

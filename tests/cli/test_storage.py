"""`pixcrawler storage`, called in this process with real services."""

import json
from collections.abc import Mapping

import ledger
import pytest
from calls import call
from doubles import query
from export import exporting
from export.exporting import StoredImage, image_bytes

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


@pytest.fixture
def here(env: Mapping[str, str], runtime: Runtime) -> Mapping[str, str]:
    """Return the environment of a command with the storage of this runtime."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    return {**env, "PIXCRAWLER_STORAGE_URL": runtime.settings.storage()}


def test_differences_are_printed_and_set_the_exit_code(here: Mapping[str, str], runtime: Runtime) -> None:
    job = exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(6)])
    good = call(here, "storage", "verify")
    assert (good.exit_code, good.stdout) == (0, "1 jobs, 6 images, 6 files\nrows and files agree\n")
    ((lost,),) = query(runtime, "SELECT min(storage_url) FROM images")
    orphan = f"crawl_jobs/{job}/cat/orphan.jpg"
    runtime.run(runtime.storage.delete([runtime.storage.key(lost)]))
    runtime.run(runtime.storage.put(orphan, b"orphan"))
    bad = call(here, "storage", "verify", str(job))
    assert bad.exit_code == 1
    assert f"1 rows without a file:\n  {lost}\n" in bad.stdout
    assert f"1 files without a row:\n  {runtime.storage.url(orphan)}\n" in bad.stdout
    result = json.loads(call(here, "storage", "verify", "--json", "--fix").stdout)
    assert (result["mended"], result["well"]) == (0, False), "the job has just ended"
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET completed_at = now() - interval '1 hour'")
    fixed = call(here, "storage", "verify", "--fix")
    assert fixed.exit_code == 0
    assert fixed.stdout.endswith("2 of them removed\nrows and files agree\n")


def test_an_unknown_job_is_an_error(here: Mapping[str, str]) -> None:
    with pytest.raises(PermanentError, match="there is no crawl job 424242"):
        call(here, "storage", "verify", "424242")

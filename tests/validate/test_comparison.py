"""What the checks that compare images find together: an image of an odd size, and others that look like it."""

import ledger
import pytest
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, findings, validate

from pixcrawler_worker.runtime import Runtime


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.mark.parametrize("severity", ["warn", "error", "info"])
@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_an_image_that_is_invalid_for_its_size_is_kept_in_place_of_no_other(
    runtime: Runtime, mode: str, severity: str
) -> None:
    views = corpus.views()[:12]
    planted = [Planted(f"good-{at}.jpg", corpus.saved(view)) for at, view in enumerate(views)]
    # Larger: the best one otherwise.
    planted.append(Planted("large.jpg", corpus.saved(views[0].resize((1600, 1200)))))
    job = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, job, planted)
    checks = {"near_duplicate": True, "odd_size": {"severity": severity, "min_images": 10}}
    ref = validate(runtime, job, {"level": "basic", "mode": mode, "checks": checks})
    is_invalid = severity == "error" or (severity == "warn" and mode == "strict")
    duplicate = "large.jpg" if is_invalid else "good-0.jpg"
    found = findings(runtime, ref)
    assert "odd_size" in found["large.jpg"]
    assert [name for name, one in found.items() if "near_duplicate" in one] == [duplicate]
    # Of the two, one is valid in any case.
    assert counted(runtime, ref)[3:] == ((12, 1) if is_invalid or mode == "strict" else (13, 0))

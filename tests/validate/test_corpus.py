"""Every check on images with known defects: what is found, and what is not."""

from collections import Counter

import ledger
import pytest
from browser import ARTIFACTS
from validate import corpus, validation_jobs

from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.rules import MODELS

#: Checks of facts: all planted defects are found, and nothing else.
FACTS = frozenset(MODELS) - {"blurry", "low_information", "grayscale", "strict_jpeg"}
#: Rules that enable every check.
EVERYTHING = {"level": "strict", "mode": "lenient", "checks": {"odd_size": {"min_images": 20}}}


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def test_the_defects_of_an_image_are_found_and_nothing_else(runtime: Runtime) -> None:
    job = validation_jobs.ended_crawl(runtime)
    planted = [*corpus.clean(), *corpus.defective()]
    corpus.store(runtime, job, planted)
    ref = validation_jobs.validate(runtime, job, EVERYTHING)
    found = validation_jobs.findings(runtime, ref)
    assert set(found) == {one.name for one in planted}
    hits, misses, alarms = Counter[str](), Counter[str](), Counter[str]()
    wrong = []
    for one in planted:
        flagged = set(found[one.name])
        hits.update(flagged & one.checks)
        misses.update(one.checks - flagged)
        alarms.update(flagged - one.checks)
        wrong += [(one.name, check) for check in (flagged ^ one.checks) & FACTS]
    lines = [f"{'check':<18} {'planted':>7} {'found':>6} {'alarms':>7} {'precision':>9} {'recall':>7}"]
    for check in sorted(MODELS):
        planted_here, all_found = hits[check] + misses[check], hits[check] + alarms[check]
        precision = f"{hits[check] / all_found:.2f}" if all_found else "-"
        recall = f"{hits[check] / planted_here:.2f}" if planted_here else "-"
        lines.append(f"{check:<18} {planted_here:>7} {hits[check]:>6} {alarms[check]:>7} {precision:>9} {recall:>7}")
    ARTIFACTS.mkdir(exist_ok=True)
    (ARTIFACTS / "validation-corpus.txt").write_text("\n".join(lines) + "\n")
    assert wrong == []
    # Checks of quality: all planted defects are found, and few of the other images are flagged.
    assert not any(misses.values()), misses
    assert alarms["blurry"] <= 3

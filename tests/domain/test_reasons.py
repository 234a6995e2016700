import re

import pytest

from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError, WorkerError


def test_a_rejection_names_its_reason_and_its_detail() -> None:
    error = RejectedError(Reason.TOO_SMALL, "10x10")
    assert error.reason is Reason.TOO_SMALL
    assert str(error) == "too_small: 10x10"


def test_a_rejection_is_not_a_failure_of_the_job() -> None:
    assert issubclass(RejectedError, WorkerError)
    assert not issubclass(RejectedError, PermanentError | TransientError)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_one_plain_word(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)


def test_a_rejection_of_the_content_does_not_pass() -> None:
    assert PASSING.isdisjoint({Reason.CORRUPT, Reason.NOT_AN_IMAGE, Reason.TOO_SMALL, Reason.DUPLICATE_BYTES})

"""Bugs that single items of a chunk meet."""

import errno

import pytest
import structlog
from prometheus_client import REGISTRY

from pixcrawler_worker.errors import OutageError
from pixcrawler_worker.jobs.internal_errors import InternalErrors, describe


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def counted(kind: str) -> float:
    return REGISTRY.get_sample_value("pixcrawler_internal_errors_total", {"kind": kind}) or 0.0


def test_the_traceback_of_the_first_of_each_type_is_logged() -> None:
    bugs = InternalErrors("crawl", "not done")
    first, second, other = KeyError("a"), KeyError("b"), UnprintableError()
    before = counted("crawl")
    with structlog.testing.capture_logs() as logs:
        lines = [bugs.add(error, image=number) for number, error in enumerate((first, second, other))]
    assert lines == ["KeyError: 'a'", "KeyError: 'b'", "UnprintableError"]
    assert [line["exc_info"] for line in logs] == [first, None, other]
    assert [(line["event"], line["image"], line["error"]) for line in logs] == [
        ("not done", number, line) for number, line in enumerate(lines)
    ]
    assert counted("crawl") - before == 3


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_what_the_machine_has_run_out_of_is_no_bug_of_an_item(code: int) -> None:
    with pytest.raises(OutageError):
        InternalErrors("crawl", "not done").add(OSError(code, "none left"))
    assert InternalErrors("crawl", "not done").add(OSError(errno.EPIPE, "gone")) == "BrokenPipeError: [Errno 32] gone"


def test_a_description_is_one_short_line() -> None:
    assert describe(ValueError("a\n b\t" + "c" * 1000)) == ("ValueError: a b " + "c" * 1000)[:200]

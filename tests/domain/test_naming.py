import pytest

from pixcrawler_worker.domain.naming import hint, nearest

KNOWN = ("sources", "licenses", "min_width")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("source", "sources"), ("LICENSE", "licenses"), ("min-width", "min_width"), ("color", None), ("", None)],
)
def test_a_slip_is_seen_through(name: str, meant: str | None) -> None:
    assert nearest(name, KNOWN) == meant


def test_a_hint_names_what_was_meant_or_everything_there_is() -> None:
    assert hint("sorces", KNOWN) == "did you mean 'sources'?"
    assert hint("color", KNOWN) == "known are sources, licenses, min_width"
    assert hint("color", ()) == "known are none"

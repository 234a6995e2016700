import pytest

from pixcrawler_worker.domain.naming import hint, nearest

KNOWN = ("sources", "licenses", "min_width")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("source", "sources"), ("LICENSE", "licenses"), ("min-width", "min_width"), ("color", None), ("", None)],
)
def test_the_nearest_name_is_found(name: str, meant: str | None) -> None:
    assert nearest(name, KNOWN) == meant


def test_a_hint_has_the_nearest_name_or_all_names() -> None:
    assert hint("sorces", KNOWN) == "did you mean 'sources'?"
    assert hint("color", KNOWN) == "known are sources, licenses, min_width"
    assert hint("color", ()) == "known are none"

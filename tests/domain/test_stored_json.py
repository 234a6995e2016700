from collections.abc import Callable
from typing import Any

import pytest

from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.stored_json import Fields
from pixcrawler_worker.errors import PermanentError

GOOD: dict[str, Any] = {
    "n": 7, "x": 1.5, "text": "a", "flag": False, "ids": [0, 3], "names": ["a"], "list": [{"a": 1}], "counts": {"a": 1},
    "inner": {"n": 1},
}  # fmt: skip
READERS: dict[str, Callable[[Fields], object]] = {
    "n": lambda fields: fields.integer("n"),
    "x": lambda fields: fields.number("x"),
    "text": lambda fields: fields.text("text"),
    "flag": lambda fields: fields.flag("flag"),
    "ids": lambda fields: fields.integers("ids"),
    "names": lambda fields: fields.texts("names"),
    "list": lambda fields: fields.objects("list"),
    "counts": lambda fields: fields.counts("counts"),
    "inner": lambda fields: fields.object("inner").integer("n"),
}
ODD: list[object] = [
    None, True, -1, 2**63, 10**5000, -0.5, 1.5, float("nan"), float("inf"), "", "1", [], [None], [-1], [1.5], ["a", 1],
    [[]], {}, {"n": "1"}, {"a": None}, {"a": -1}, {"a": True},
]  # fmt: skip


def outcome(read: Callable[[Fields], object], value: object) -> object:
    """What is read, or the error's text."""
    try:
        return read(Fields(value, "result"))
    except PermanentError as error:
        return error


@pytest.mark.parametrize("name", READERS)
def test_a_field_is_what_it_should_be_or_is_named_in_an_error(name: str) -> None:
    assert not isinstance(outcome(READERS[name], GOOD), PermanentError)
    errors = [str(error) for error in (outcome(READERS[name], {name: value}) for value in ODD)]
    named = [error for error in errors if error.startswith(f"result.{name}") and "expected" in error]
    assert len(named) >= len(ODD) - 3
    assert max(map(len, named)) < 200


@pytest.mark.parametrize("name", [name for name in READERS if name != "inner"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(PermanentError, match=rf"^payload\.{name}: expected .*, got nothing$"):
        READERS[name](Fields({}, "payload"))


def test_a_missing_field_may_have_a_default() -> None:
    fields = Fields({}, "result")
    assert (fields.integer("n", default=3), fields.counts("counts", optional=True), fields.has("n")) == (3, {}, False)


def test_bounds_of_an_integer_are_in_the_message() -> None:
    with pytest.raises(PermanentError, match=r"^payload\.n: expected an integer from 1 to 5, got 7$"):
        Fields(GOOD, "payload").integer("n", minimum=1, maximum=5)


@pytest.mark.parametrize("value", [None, 3, "text", [], 10**5000], ids=lambda value: type(value).__name__)
def test_anything_but_an_object_is_rejected(value: object) -> None:
    with pytest.raises(PermanentError, match=r"^payload: expected an object, got "):
        Fields(value, "payload")


@pytest.mark.parametrize("value", [None, 7, "a", [1], {"a": "1", "b": -1, "c": True, "d": 1.5, "e": {}}])
def test_what_is_no_count_is_left_out_of_counts(value: object) -> None:
    assert stored_json.counts(value) == {}
    assert stored_json.counts({"kept": 2} | (value if isinstance(value, dict) else {})) == {"kept": 2}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("cat", "'cat'"),
        ("x" * 1_000_000, f"'{'x' * 56}..."),
        (10**5000, "a number with very many digits"),
        ([[[]]], "an array"),
        ({"a": 1}, "an object"),
        ("a\x00\n", r"'a\x00\n'"),
    ],
    ids=["text", "long", "number", "array", "object", "control"],
)
def test_a_value_is_quoted_in_one_short_line(value: object, shown: str) -> None:
    assert stored_json.quoted(value) == shown

import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain import list_columns, tables
from pixcrawler_worker.domain.list_columns import MAX_CAPTION, MAX_COLUMNS, ColumnFacts, ListColumns
from pixcrawler_worker.domain.postgres_types import MAX_INT8, storable
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.errors import PermanentError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["a", "A", "width", "=x", "n"]) | st.text(), JSON), min_size=1, max_size=5
)


def facts(key: str, **values: Any) -> ColumnFacts:
    defaults: dict[str, Any] = {"values": 1, "numbers": False, "integers": True, "booleans": False}
    return ColumnFacts(key=key, **defaults | values)


def columns(*found: ColumnFacts, images: int = 1, has_captions: bool = False) -> ListColumns:
    return ListColumns.of(found, images=images, has_captions=has_captions, row_bytes=0)


def names(*keys: str) -> list[str]:
    return list(columns(*map(facts, keys)).types)


def of_rows(rows: list[dict[str, object]]) -> ListColumns:
    """Return the columns of images with these rows, as the database counts them."""
    found = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if key in row]
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        found.append(
            facts(
                key,
                values=len(values),
                numbers=len(numbers) == len(values) and all(abs(one) <= list_columns.MAX_NUMBER for one in numbers),
                integers=all(isinstance(one, int) for one in numbers),
                booleans=all(isinstance(one, bool) for one in values),
            )
        )
    return columns(*found, images=len(rows))


# What is kept


@pytest.mark.parametrize("blank", [None, "", " ", "\n\t", "\u2003"])
def test_a_blank_caption_is_none(blank: str | None) -> None:
    assert list_columns.kept_caption(blank) is None


def test_a_caption_is_kept_whole_up_to_its_limit() -> None:
    longest = "\U0001f408" * MAX_CAPTION
    assert list_columns.kept_caption(longest) == longest
    cut = list_columns.kept_caption(longest + "a")
    assert cut is not None
    assert (len(cut), cut[-1]) == (MAX_CAPTION, "\N{HORIZONTAL ELLIPSIS}")
    assert len("a" * 100_000) < MAX_CAPTION


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("cat", "cat"),
        ("", ""),
        ("a\x00b\ud800", "ab?"),
        ("x" * 10_001, "x" * 9_999 + "\N{HORIZONTAL ELLIPSIS}"),
        (True, True),
        (MAX_INT8, MAX_INT8),
        (-MAX_INT8 - 1, -MAX_INT8 - 1),
        (MAX_INT8 + 1, "9223372036854775808"),
        (1.5, 1.5),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ({"b": [1, "\x00", math.nan]}, {"b": [1, "", "nan"]}),
        (["x" * 10_000], '["' + "x" * 9_997 + "\N{HORIZONTAL ELLIPSIS}"),
        (b"x", "b'x'"),
    ],
)
def test_a_value_is_kept_as_json_that_postgresql_stores(value: object, kept: object) -> None:
    assert list_columns.kept_columns({"a": value}) == {"a": kept}


def test_an_integer_that_python_does_not_write_is_a_text() -> None:
    huge = 1 << 20_000
    kept = list_columns.kept_columns({"a": huge, "b": [huge]})
    assert kept == {"a": f"{huge:#x}", "b": "(nested too deeply, or too large)"}


def test_a_value_that_is_nested_too_deeply_is_a_text() -> None:
    nested: list[object] = []
    for _ in range(50_000):
        nested = [nested]
    assert list_columns.kept_columns({"a": nested}) == {"a": "(nested too deeply, or too large)"}


def test_a_row_without_values_has_no_columns() -> None:
    assert list_columns.kept_columns({}) is None
    assert list_columns.kept_columns({"a": None}) is None


def test_the_columns_of_a_row_are_bounded() -> None:
    many = list_columns.kept_columns({str(number): number for number in range(1000)})
    assert many == {str(number): number for number in range(MAX_COLUMNS)}
    large = list_columns.kept_columns({str(number): "x" * 10_000 for number in range(100)})
    assert large is not None
    assert len(large) == 9
    assert len(json.dumps(large)) <= 100_000


def test_long_names_of_columns_stay_different() -> None:
    kept = list_columns.kept_columns({"x" * 200: 1, "x" * 201: 2, "y" * 100: 3})
    assert kept is not None
    assert list(kept.values()) == [1, 2, 3]
    assert max(map(len, kept)) == 100


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), JSON))
def test_whatever_is_kept_is_stored_as_it_is_and_kept_the_same_again(row: dict[str, object]) -> None:
    kept = list_columns.kept_columns(row)
    if kept is not None:
        text = json.dumps(kept, allow_nan=False)
        assert storable(text) == text
        assert "\\u0000" not in text.replace("\\\\", "")
        assert list_columns.kept_columns(json.loads(text)) == kept


# Names


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("aesthetic", "aesthetic"),
        ("Aesthetic score", "Aesthetic score"),
        ("nsfw-1.0", "nsfw-1.0"),
        ("\u0909\u092a\u0936\u0940\u0930\u094d\u0937\u0915", "\u0909\u092a\u0936\u0940\u0930\u094d\u0937\u0915"),
        ("e\u0301", "\u00e9"),
        ("width", "list_width"),
        ("Width", "list_Width"),
        ("LICENSE", "list_LICENSE"),
        ("text", "list_text"),
        ("file_name", "filename"),
        ("original_file_name", "original_filename"),
        ("crop_file_names", "crop_filenames"),
        ("image", "list_image"),
        ("other_columns", "list_other_columns"),
        ("__key__", "list___key__"),
        ("=1+1", "_1_1"),
        ("-x", "list_-x"),
        (".x", "list_.x"),
        ("a/b:c", "a_b_c"),
        ('a";=b', "a___b"),
        ("a\nb", "a b"),
        ("\u202ea", "a"),
        ("", "list_"),
        ("  ", "list_"),
        ("7", "7"),
    ],
)
def test_a_column_has_a_name_that_every_reader_accepts(key: str, name: str) -> None:
    assert names(key) == [name]


def test_columns_with_the_same_name_get_numbers() -> None:
    assert names("A", "a", "a ", "a/b", "a:b") == ["A", "list_a", "list_a_2", "a_b", "list_a_b"]
    assert names("list_width", "width") == ["list_width", "list_width_2"]


@given(
    st.lists(
        st.text(max_size=20) | st.sampled_from(["width", "list_width", "Text", "a", "A"]), unique=True, max_size=30
    )
)
def test_no_two_columns_have_the_same_name_in_any_case(keys: list[str]) -> None:
    found = names(*keys)
    assert len(found) == len(keys)
    assert found == names(*reversed(keys))
    folded = {name.casefold() for name in found}
    assert len(folded) == len(keys)
    assert not folded & {*tables.COLUMNS, "text", "image", "other_columns"}
    for name in found:
        assert name == safe(name) == tables.cell(name) == name.strip()
        assert name[0] == "_" or unicodedata.category(name[0])[0] in "LN"


# Types


@pytest.mark.parametrize(
    ("values", "type_", "exported"),
    [
        ([1, -2], "int64", [1, -2]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([True, False], "bool", [True, False]),
        (["a", "b"], "string", ["a", "b"]),
        (["a", 1, 2.5, True], "string", ["a", "1", "2.5", "true"]),
        ([1, True], "string", ["1", "true"]),
        ([1, None], "string", ["1", ""]),
        ([[1, {"b": "\u00e9"}], {}], "string", ['[1, {"b": "\u00e9"}]', "{}"]),
        ([1.5, 1e301], "string", ["1.5", "1e+301"]),
    ],
)
def test_all_values_of_a_column_have_one_type(values: list[object], type_: str, exported: list[object]) -> None:
    rows = [{} if value is None else {"a": value} for value in values]
    found = of_rows(rows)
    assert found.types == {"a": type_}
    seen = [found.values(None, row)["a"] for row in rows]
    assert seen == exported
    assert [type(one) for one in seen] == [type(one) for one in exported]


@given(ROWS, st.lists(st.none() | st.text()))
@settings(max_examples=40, deadline=None)
def test_every_image_has_every_column_with_a_safe_value_of_its_type(
    rows: list[dict[str, object]], captions: list[str | None]
) -> None:
    kept = [list_columns.kept_columns(row) or {} for row in rows]
    found = ListColumns.from_json(json.loads(json.dumps(of_rows(kept).to_json())))
    python = {"string": str, "int64": int, "float64": float, "bool": bool}
    for row, caption in zip(kept, [*captions, *rows], strict=False):
        values = found.values(caption if isinstance(caption, str) else None, row)
        assert list(values) == list(found.types)
        for name, value in values.items():
            assert type(value) is python[found.types[name]]
            assert not isinstance(value, str) or value == safe(value)


@pytest.mark.parametrize("odd", [None, "text", [1], {"a": "x"}, {"a": 1e400}, {"a": 10**400}, {"a": True}, {"a": {}}])
def test_a_row_that_changes_after_the_columns_were_read_still_has_their_types(odd: object) -> None:
    found = of_rows([{"a": 1}])
    assert found.values(None, odd) == {"a": 0}


def test_captions_are_a_column_where_an_image_has_one() -> None:
    assert columns().types == {}
    found = columns(has_captions=True)
    assert found.types == {"text": "string"}
    assert found.values("a\ncat\x00 \u202e'", None) == {"text": "a cat\ufffd '"}
    assert found.values(None, None) == {"text": ""}
    assert len(str(found.values("x" * 100_000, None)["text"])) == 100_000


def test_columns_beyond_the_limit_are_in_one_column_as_json() -> None:
    keys = [f"c{number:03d}" for number in range(MAX_COLUMNS + 1)]
    found = columns(*(facts(key, values=1) for key in keys), images=2)
    assert list(found.types) == [*keys[:MAX_COLUMNS], "other_columns"]
    values = found.values(None, {"c000": "a", "rare": [1], "gone": None})
    assert (values["c000"], values["other_columns"]) == ("a", '{"rare": [1]}')
    assert found.values(None, {"c000": "a"})["other_columns"] == ""


@pytest.mark.parametrize(
    "recorded",
    [
        {},
        {"captions": 1, "columns": [], "others": False, "row_bytes": 0},
        {"captions": True, "columns": [{"key": "a", "name": "a", "type": "text"}], "others": False, "row_bytes": 0},
    ],
)
def test_recorded_columns_that_are_invalid_are_an_error(recorded: dict[str, object]) -> None:
    with pytest.raises(PermanentError, match=r"^columns\."):
        ListColumns.from_json(recorded)

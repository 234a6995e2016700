import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.keywords import MAX_KEYWORD_LENGTH, Keyword, class_label, parse_keywords
from pixcrawler_worker.errors import PermanentError

CAT, DOG = Keyword("cat", "cat"), Keyword("dog", "dog")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (["cat"], (CAT,)),
        (["cat", "dog"], (CAT, DOG)),
        ({"keywords": ["cat"]}, (CAT,)),
        (["  red \t panda\n"], (Keyword("red panda", "red panda"),)),
        ([{"query": "cat"}], (CAT,)),
        ([{"query": "cat", "label": "feline", "max_images": 7}], (Keyword("cat", "feline", 7),)),
        (["dog", {"query": "cat", "label": "feline"}], (DOG, Keyword("cat", "feline"))),
        (["cat", "dog", "cat", {"query": "cat"}, " cat "], (CAT, DOG)),
        (["cafe\u0301"], (Keyword("caf\u00e9", "caf\u00e9"),)),
        (["x" * MAX_KEYWORD_LENGTH], (Keyword("x" * MAX_KEYWORD_LENGTH, "x" * MAX_KEYWORD_LENGTH),)),
        (["cat", {"query": "cat", "label": "feline"}], (CAT, Keyword("cat", "feline"))),
    ],
)
def test_keywords_are_parsed_in_every_valid_form(raw: object, found: tuple[Keyword, ...]) -> None:
    assert parse_keywords(raw) == found


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("cat", "keywords must be an array of strings, or of objects such as"),
        (None, "keywords must be .*, not None"),
        (7, "keywords must be .*, not 7"),
        ({}, "keywords must be an array"),
        ({"query": "cat"}, "keywords must be an array"),
        ({"keywords": "cat"}, "keywords must be an array"),
        ([], "keywords is empty: give at least one"),
        ({"keywords": []}, "keywords is empty"),
        ([7], r"keywords\[0\] must be a string or an object with a query, not 7"),
        (["cat", None], r"keywords\[1\] must be a string"),
        ([["cat"]], r"keywords\[0\] must be a string"),
        ([{"label": "cat"}], r"keywords\[0\] must be a string or an object with a query"),
        ([{"query": 7}], r"keywords\[0\]\.query must be a string, not 7"),
        ([{"query": "cat", "label": None}], r"keywords\[0\]\.label must be a string, not None"),
        ([{"query": "cat", "limit": 7}], r"keywords\[0\] has the unknown key 'limit'; known are query, label and max"),
        (["  "], r"keywords\[0\] is blank"),
        ([{"query": "cat", "label": ""}], r"keywords\[0\]\.label is blank"),
        (["x" * (MAX_KEYWORD_LENGTH + 1)], rf"has {MAX_KEYWORD_LENGTH + 1} characters; at most {MAX_KEYWORD_LENGTH}"),
        ([str(number) for number in range(10_001)], "keywords has 10001 entries; at most 10000 are allowed"),
        (["a\x00b"], r"keywords\[0\] has control characters"),
        (["a\ud800b"], r"keywords\[0\] has control characters"),
        *(
            (
                [{"query": "cat", "max_images": cap}],
                r"keywords\[0\]\.max_images must be an integer from 1 to 2147483647, not",
            )
            for cap in (0, -1, 1.5, "7", True, 2**31, 10**5000)
        ),
    ],
)
def test_invalid_keywords_are_rejected_with_what_was_expected(raw: object, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        parse_keywords(raw)


@pytest.mark.parametrize(
    "invisible",
    [
        "\u200b",
        "\ufeff",
        "\u2060",
        "\u00ad",
        "\u200e",
        "\u200c",
        "\u200d",
        "\ufe0f",
        "\u034f",
        "\u115f",
        "\u2800",
        "\u3164",
        "\uffa0",
    ],
)
def test_invisible_characters_make_no_other_class(invisible: str) -> None:
    assert parse_keywords(["cat", f"c{invisible}at", f"{invisible}cat"]) == parse_keywords(["cat"])
    with pytest.raises(PermanentError, match="blank"):
        parse_keywords([invisible])


def test_joiners_are_part_of_a_word() -> None:
    # Persian "I want", and an emoji of two people.
    for word in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f469\u200d\U0001f680",
        "\u2764\ufe0f",
        "1\ufe0f\u20e3",
    ):
        assert [keyword.query for keyword in parse_keywords([word])] == [word]


def test_one_class_cannot_have_two_limits() -> None:
    with pytest.raises(PermanentError, match=r"keywords\[1\] repeats 'cat' with another max_images"):
        parse_keywords([{"query": "cat", "max_images": 5}, "cat"])


def test_an_error_about_keywords_quotes_at_most_a_line() -> None:
    with pytest.raises(PermanentError) as caught:
        parse_keywords("x" * 5000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "raw",
    [[{"query": "cat", "x" * 10_000: 1}], [{"query": "cat", "max_images": -(10**5000)}], [[[10**5000]]]],
    ids=["long key", "many digits", "nested"],
)
def test_an_error_about_unusual_keywords_is_short(raw: object) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_keywords(raw)
    assert len(str(caught.value)) < 250


def test_an_error_about_deeply_nested_keywords_is_short() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PermanentError) as caught:
        parse_keywords({"keywords": {"x": deep}})
    assert len(str(caught.value)) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["query", "label", "max_images"]), inner),
    max_leaves=5,
)


@given(JSON | st.lists(JSON))
def test_any_json_is_either_parsed_or_rejected(raw: object) -> None:
    found: tuple[Keyword, ...] | None = None
    with contextlib.suppress(PermanentError):
        found = parse_keywords(raw)
    assert found is None or len({(keyword.query, keyword.label) for keyword in found}) == len(found) > 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cat", "cat"),
        ("  red \t panda\n", "red panda"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\ud800c", "a b c"),
        ("\u202ea\u200b", "a"),
        ("../../etc", "../../etc"),
        ("", None),
        (" \n\x00\u2800", None),
        ("x" * MAX_KEYWORD_LENGTH, "x" * MAX_KEYWORD_LENGTH),
    ],
)
def test_any_text_of_a_list_makes_a_label(text: str, label: str | None) -> None:
    assert class_label(text) == label


def test_long_texts_make_different_labels() -> None:
    long = ["x" * MAX_KEYWORD_LENGTH + "y", "x" * MAX_KEYWORD_LENGTH + "z", "x" * 10**6, "x" * 10**6 + "y"]
    labels = {class_label(one) for one in long}
    assert len(labels) == len(long)
    assert {len(label or "") for label in labels} == {MAX_KEYWORD_LENGTH}


@given(st.text() | st.text(st.sampled_from("ae \u0301\u200d\ufe0f\u20e3\x00\ud800\u0627")))
def test_a_label_of_a_list_could_be_that_of_a_keyword(text: str) -> None:
    label = class_label(text)
    if label is not None:
        assert parse_keywords([label])[0].label == class_label(label) == label

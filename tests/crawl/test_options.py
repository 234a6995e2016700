import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pixcrawler_worker.crawl import options
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError

TEXTS = st.lists(st.text(max_size=20), max_size=3)
RAW = st.fixed_dictionaries(
    {},
    optional={
        "sources": st.none()
        | st.lists(st.text(max_size=20).filter(lambda text: text.replace("\x00", "").strip()), max_size=3),
        "urls": TEXTS,
        "licenses": st.none() | st.lists(st.sampled_from(("CC0", "cc-by", "by-sa 4.0", "LicenseRef-X")), max_size=3),
        "min_width": st.integers(1, 2**31 - 1),
        "min_height": st.integers(1, 2**31 - 1),
        "formats": st.none() | st.lists(st.sampled_from(FORMATS), max_size=3),
        "chunk_size": st.none() | st.integers(1, 1000),
        "max_rounds": st.integers(1, 100),
        "safe_search": st.booleans(),
        "respect_opt_outs": st.booleans(),
        "respect_robots": st.booleans(),
        "skip_known": st.booleans(),
        "reproducible": st.booleans(),
        "extends": st.none() | st.integers(1, 2**31 - 1),
    },
)


def message_of(raw: object) -> str:
    with pytest.raises(PermanentError) as caught:
        options.parse(raw)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_left_out_has_the_documented_defaults() -> None:
    assert options.parse({}).model_dump() == {
        "sources": None,
        "urls": (),
        "licenses": None,
        "min_width": 32,
        "min_height": 32,
        "target_side": None,
        "variants": (),
        "synonyms": {},
        "formats": None,
        "chunk_size": None,
        "max_rounds": 5,
        "safe_search": True,
        "respect_opt_outs": True,
        "respect_robots": True,
        "skip_known": False,
        "extends": None,
        "reproducible": False,
        "limit_rate": None,
        "wait": 0.0,
    }


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("source", "sources"),
        ("url", "urls"),
        ("min_widht", "min_width"),
        ("license", "licenses"),
        ("Formats", "formats"),
    ],
)
def test_an_unknown_option_is_rejected_with_the_nearest_one(name: str, meant: str) -> None:
    assert message_of({name: 1}) == f"options.{name}: unknown option, did you mean {meant!r}?"


@pytest.mark.parametrize("name", ["color", "", 1, None])
def test_an_option_without_a_similar_one_is_rejected_with_all_known_ones(name: object) -> None:
    message = message_of({name: "red"})
    shown = name if name != "" else '""'
    assert message.startswith(f"options.{shown}: unknown option, known are ")
    assert all(known in message for known in CrawlOptions.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sources", value) for value in ("urls", 1, ["urls", 1], {"urls": 1}, [None])),
        *(("urls", value) for value in (None, "http://a.example/", [["http://a.example/"]], [b"http://a.example/"])),
        *(
            ("urls", [{"url": "http://a.example/", **value}])
            for value in ({"alt": "a"}, {"caption": 1}, {"label": " "})
        ),
        *(("urls", [{"url": "http://a.example/", "columns": value}]) for value in (None, ["a"], {1: "a"}, {"a": b"a"})),
        ("urls", [{"caption": "a red cat"}]),
        *(("licenses", value) for value in ("cc0-1.0", [1], True)),
        *(("formats", value) for value in ("jpg", [1])),
        *(("min_width", value) for value in ("32", 32.0, True, 0, -1, None)),
        *(("min_height", value) for value in ("32", 31.5, False, 0, None)),
        *(("chunk_size", value) for value in ("100", 100.0, True, 0, 1001)),
        *(("max_rounds", value) for value in ("5", 5.0, True, 0, 101, None)),
        *(("safe_search", value) for value in (1, "true", None)),
        *(("respect_opt_outs", value) for value in (0, "false", None)),
        *(("respect_robots", value) for value in (0, "false", None)),
    ],
)
def test_an_invalid_value_is_rejected_with_the_name_of_the_option(name: str, value: object) -> None:
    assert message_of({name: value}).startswith(f"options.{name}")


@pytest.mark.parametrize("raw", [None, [], "sources", 1, [("sources", ["urls"])]])
def test_what_is_not_an_object_is_rejected(raw: object) -> None:
    assert message_of(raw).startswith("options: expected an object, got ")


def test_options_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        options.parse({}).min_width = 1


@given(raw=RAW)
def test_the_ledger_records_everything_but_the_urls(raw: dict[str, Any]) -> None:
    parsed = options.parse(raw)
    recorded = options.recorded(parsed)
    assert "urls" not in recorded
    assert options.parse(json.loads(json.dumps(recorded))) == parsed.model_copy(update={"urls": ()})


def test_the_ledger_records_no_defaults() -> None:
    assert options.recorded(options.parse({"min_width": 32, "sources": None, "urls": ["http://a.example/"]})) == {}


def test_characters_that_the_database_cannot_store_do_not_reach_it() -> None:
    parsed = options.parse({"urls": ["http://a.example/\x00b", "http://a.example/\ud800"], "sources": ["\x00urls"]})
    assert parsed.urls == ("http://a.example/b", "http://a.example/?")
    assert parsed.sources == ("urls",)


def test_a_license_has_many_notations_and_is_rejected_with_the_nearest_name() -> None:
    assert options.parse({"licenses": ["CC BY-SA 4.0", "cc0"]}).licenses == ("cc-by-sa-4.0", "cc0")
    assert "there is no license 'cc-bye'; did you mean 'cc-by'?" in message_of({"licenses": ["cc-bye"]})


@pytest.mark.parametrize("written", ["jpg", "JPG", "jpeg", ".jpeg", "image/jpeg"])
def test_a_format_has_many_notations(written: str) -> None:
    assert options.parse({"formats": [written]}).formats == ("jpg",)


def test_an_unknown_format_is_rejected_by_name() -> None:
    assert (
        message_of({"formats": ["jpgg"]}) == "options.formats[0]: there is no image format 'jpgg'; did you mean 'jpg'?"
    )
    assert "; known are jpg, png, webp" in message_of({"formats": ["psd"]})


def test_a_url_may_have_a_caption_a_label_and_columns() -> None:
    given: list[object] = [" https://x/1 ", {"url": " https://x/2 ", "caption": "a red\x00 cat"}]
    given.append({"url": "https://x/3", "label": "cat", "columns": {"n\x00": [1.5, {"a": None}], "b": "\ud800"}})
    assert list(options.parse({"urls": given}).rows()) == [
        ListRow("https://x/1"),
        ListRow("https://x/2", "a red cat"),
        ListRow("https://x/3", None, "cat", {"n": [1.5, {"a": None}], "b": "?"}),
    ]
    assert message_of({"urls": [{"caption": "a"}]}) == (
        "options.urls[0]: expected a string or an object with `url`, got an object"
    )


def test_urls_have_no_spaces_around_them() -> None:
    assert options.parse({"urls": [" https://x/1 ", "https://x/a b\n"]}).urls == ("https://x/1", "https://x/a b")

"""The options of all kinds of jobs: one style of message, and no JSON value that raises anything else."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, StrictBool

from pixcrawler_worker import options
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.crawl.options import parse as parse_crawl_options
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.postgres_types import MAX_INT8
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.export.options import parse as parse_export_options
from pixcrawler_worker.options import Count, ImageFormat, Integer, License, Name, Number, Options, Share, Size, Text
from pixcrawler_worker.validate.rules import ValidationRules
from pixcrawler_worker.validate.rules import parse as parse_validation_rules

Parser = Callable[[object], BaseModel]
PARSERS: dict[str, tuple[Parser, type[BaseModel]]] = {
    "options": (parse_crawl_options, CrawlOptions),
    "validation_rules": (parse_validation_rules, ValidationRules),
    "export_options": (parse_export_options, ExportOptions),
}


class Inner(Options):
    size: Size = 5
    names: tuple[Name, ...] = ()


class Sample(Options):
    text: Text = ""
    name: Name = "a"
    image: ImageFormat = "jpg"
    license: License = "cc0"
    size: Size = 1
    count: Count = 0
    seed: Annotated[int, Integer(-(2**63), MAX_INT8)] = 0
    few: Annotated[int, Integer(1, 10)] = 1
    share: Share = 0.5
    positive: Annotated[float, Number(above=0)] = 1
    number: Annotated[float, Number()] = 0
    mode: Literal["fit", "pad"] = "fit"
    listed: tuple[Size, ...] | None = Field(default=None, min_length=1, max_length=3)
    inner: Inner | StrictBool | None = None
    by_name: Mapping[Name, Inner] = Field(default={})


def message_of(raw: object) -> str:
    with pytest.raises(PermanentError) as caught:
        options.parse(Sample, raw, "options")
    return str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "options: expected an object, got null"),
        ("wide", 'options: expected an object, got "wide"'),
        ([1], "options: expected an object, got an array"),
        (b"{}", "options: expected an object, got a value of the type bytes"),
        ({"size": "wide"}, 'options.size: expected an integer of at least 1, got "wide"'),
        ({"size": 0}, "options.size: expected an integer of at least 1, got 0"),
        ({"size": True}, "options.size: expected an integer of at least 1, got true"),
        ({"size": 1.0}, "options.size: expected an integer of at least 1, got 1.0"),
        ({"size": None}, "options.size: expected an integer of at least 1, got null"),
        ({"size": 2**31}, "options.size: expected an integer of at most 2147483647, got 2147483648"),
        ({"count": -1}, "options.count: expected an integer of at least 0, got -1"),
        (
            {"seed": 2**63},
            "options.seed: expected an integer from -9223372036854775808 to 9223372036854775807, got 9.*",
        ),
        ({"seed": 10**5000}, r"options.seed: .*, got a number with very many digits"),
        ({"few": 11}, "options.few: expected an integer from 1 to 10, got 11"),
        ({"share": 1.5}, "options.share: expected a number from 0 to 1, got 1.5"),
        ({"share": "0.5"}, 'options.share: expected a number from 0 to 1, got "0.5"'),
        ({"share": True}, "options.share: expected a number from 0 to 1, got true"),
        ({"share": math.nan}, "options.share: expected a number from 0 to 1, got NaN"),
        ({"positive": 0}, "options.positive: expected a number above 0, got 0"),
        ({"positive": math.inf}, "options.positive: expected a number above 0, got Infinity"),
        ({"number": -math.inf}, "options.number: expected a finite number, got -Infinity"),
        ({"mode": "crop"}, 'options.mode: expected "fit" or "pad", got "crop"'),
        ({"mode": []}, 'options.mode: expected "fit" or "pad", got an array'),
        ({"text": 1}, "options.text: expected a string, got 1"),
        ({"name": " \t"}, "options.name: expected a string that is not blank, of at most 200 characters, got .*"),
        ({"name": "x" * 201}, "options.name: expected a string that is not blank, of at most 200 characters, got .*"),
        ({"image": "jpgg"}, "options.image: there is no image format 'jpgg'; did you mean 'jpg'\\?"),
        ({"license": "cc-bi"}, "options.license: there is no license 'cc-bi'; did you mean 'cc-by'\\?"),
        ({"listed": "x"}, 'options.listed: expected an array, got "x"'),
        ({"listed": [1, 2, 0]}, r"options.listed\[2\]: expected an integer of at least 1, got 0"),
        ({"listed": []}, "options.listed: expected at least 1 entries, got an array"),
        ({"listed": [1] * 4}, "options.listed: expected at most 3 entries, got an array"),
        ({"inner": 3}, "options.inner: expected an object, true or false, got 3"),
        ({"inner": {"size": 0}}, "options.inner.size: expected an integer of at least 1, got 0"),
        ({"inner": {"names": ["a", ""]}}, r"options.inner.names\[1\]: expected a string that is not blank, .*"),
        ({"by_name": {"red panda": {"size": 0}}}, 'options.by_name."red panda".size: expected an integer .*'),
        ({"by_name": {"": {}}}, 'options.by_name: expected a string that is not blank, .*, got ""'),
        ({"by_name": {1: {}}}, "options.by_name: expected a string that is not blank, .*, got 1"),
    ],
)
def test_an_invalid_value_is_named_with_what_was_expected(raw: object, message: str) -> None:
    assert re.fullmatch(message, message_of(raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sise": 1}, "options.sise: unknown option, did you mean 'size'?"),
        ({"inner": {"nmaes": []}}, "options.inner.nmaes: unknown option, did you mean 'names'?"),
        ({"by_name": {"a": {"sizes": 1}}}, "options.by_name.a.sizes: unknown option, did you mean 'size'?"),
        ({"inner": {"zzz": 1}}, "options.inner.zzz: unknown option, known are size, names"),
        ({"inner": {7: 1}}, "options.inner.7: unknown option, known are size, names"),
        ({"size": "wide", "sise": 1}, "options.sise: unknown option, did you mean 'size'?"),
    ],
    ids=str,
)
def test_an_unknown_option_is_named_with_the_nearest_one(raw: object, message: str) -> None:
    assert message_of(raw) == message


@pytest.mark.parametrize(
    "raw",
    [{"x" * 10**7: 1}, {"mode": "x" * 10**7}, {"image": "x" * 10**7}, {"license": "x" * 10**7}, {"name": "\\" * 10**7}],
)
def test_a_message_about_a_huge_text_is_short(raw: object) -> None:
    assert len(message_of(raw)) < 400


@pytest.mark.parametrize("written", ["jpg", "JPG", "jpeg", "JPEG", ".jpg", ".JPEG", "image/jpeg"])
def test_the_notations_of_an_image_format_are_the_same_for_all_jobs(written: str) -> None:
    assert parse_crawl_options({"formats": [written]}).formats == ("jpg",)
    rules = parse_validation_rules({"checks": {"formats": {"allow": [written]}}})
    assert rules.model_dump()["checks"]["formats"]["allow"] == ("jpg",)
    assert parse_export_options({"image": {"format": written}}).image.format == "jpg"


def test_every_image_format_is_accepted_by_its_name() -> None:
    assert [options.image_format(name) for name in (*FORMATS, "tif")] == [*FORMATS, "tiff"]


def test_a_text_is_stored_without_what_postgresql_cannot_store() -> None:
    assert options.parse(Sample, {"text": "a\x00b\ud800", "name": "\x00a"}, "options") == Sample(text="ab?", name="a")


def test_bounds_are_part_of_the_json_schema() -> None:
    properties = Sample.model_json_schema()["properties"]
    assert properties["size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 2**31 - 1,
        "default": 1,
        "title": "Size",
    }
    assert (properties["positive"]["type"], properties["positive"]["exclusiveMinimum"]) == ("number", 0)
    assert properties["image"]["type"] == "string"


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


def names_of(model: type[BaseModel]) -> list[str]:
    """Return the names of all options, at any depth."""
    return sorted({name for one in models_in(model) for name in one.model_fields})


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0])
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["keep", "JPEG", "cc-by", "auto", "strict", "fast", "#ffffff", "label", "x" * 300, "\ud800\x00"])
)


def json_values(names: list[str]) -> st.SearchStrategy[Any]:
    """Random JSON that has the names of options often, and keys that JSON cannot have sometimes."""
    keys = st.sampled_from(names) | st.text(max_size=9) | st.sampled_from(["min_image_width", "max_size_mb", "formats"])
    return st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys, inner, max_size=3)
            | st.dictionaries(st.integers() | st.none() | st.floats(), inner, max_size=1)
        ),
        max_leaves=9,
    )


def objects(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Random objects with the options of a model, of which each may be valid."""
    values = json_values(names_of(model))
    sections = {
        name: values | st.dictionaries(st.sampled_from(names_of(model)), values, max_size=3)
        for name in model.model_fields
    }
    return values | st.fixed_dictionaries({}, optional=sections)


@pytest.mark.parametrize("where", PARSERS)
@settings(deadline=None)
@given(data=st.data())
def test_any_json_value_is_parsed_or_rejected_with_the_name_of_the_field(where: str, data: st.DataObject) -> None:
    parse, model = PARSERS[where]
    raw = data.draw(objects(model))
    try:
        parsed = parse(raw)
    except PermanentError as error:
        message = str(error)
        assert re.match(rf"{where}[:.\[]", message)
        assert "\n" not in message
        assert len(message) < 1000
        message.encode()
    else:
        again = parse(json.loads(parsed.model_dump_json(exclude_unset=True)))
        assert again == parsed


@pytest.mark.parametrize("where", PARSERS)
@settings(deadline=None)
@example(depth=100_000)
@given(depth=st.integers(1, 2000))
def test_deep_nesting_is_rejected(where: str, depth: int) -> None:
    parse, model = PARSERS[where]
    deep_list: object = 1
    deep_object: object = 1
    for _ in range(depth):
        deep_list, deep_object = [deep_list], {"checks": deep_object}
    for name in (*model.model_fields, "unknown"):
        for deep in (deep_list, deep_object):
            with contextlib.suppress(PermanentError):
                parse({name: deep})
    with pytest.raises(PermanentError):
        parse(deep_list)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sources": ["a"] * 10_001}, "options.sources: expected at most 10000 entries, got an array"),
        ({"licenses": ["cc0"] * 10_001}, "options.licenses: expected at most 10000 entries, got an array"),
        ({"min_width": 10**30}, f"options.min_width: expected an integer of at most 2147483647, got 1{'0' * 30}"),
        ({"\ud800": 1}, "options: expected a string of characters, without unpaired surrogates, got an object"),
    ],
    ids=["sources", "licenses", "width", "surrogate"],
)
def test_lists_numbers_and_keys_have_bounds(raw: dict[str, object], message: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_crawl_options(raw)
    assert str(caught.value) == message

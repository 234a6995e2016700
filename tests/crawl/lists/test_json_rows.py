"""JSON as odd programs write it: a value costs no others, and what is not read is an error."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_samples import URLS

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import Columns, Notes
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError

LINES = [json.dumps({"url": url}) for url in URLS]


def read(text: str) -> tuple[list[ListRow], list[str]]:
    notes = Notes()
    with StoredList(reading.read(io.BytesIO(text.encode()), "list", notes=notes)) as stored:
        return list(stored.page(0, 1000)), list(notes.lines("list"))


def message_of(text: str) -> str:
    with pytest.raises(PermanentError) as raised:
        read(text)
    return str(raised.value)


@pytest.mark.parametrize("form", ["[%s]", "%s", "%s\n{broken"])
def test_an_integer_of_any_length_is_read(form: str) -> None:
    for digits in ("9" * 400, "-" + "9" * 5000):
        rows, said = read(form % ("{" + f'"url": "{URLS[0]}", "n": {digits}' + "}"))
        assert (rows[0].url, rows[0].columns, len(said)) == (URLS[0], {"n": digits}, form.count("broken"))


def test_what_follows_an_array_is_not_lost() -> None:
    for rest in ("garbage", "[1]", json.dumps(URLS), "{}"):
        for between in ("", "\n", "\n" * 100_000):
            message = message_of(f"[{LINES[0]}]{between}{rest}")
            assert message.startswith("list, line 1: expected the end of the list after its array, got ")
            assert message.endswith(": write one array, or an object per line")
    rows, _ = read(f"[{LINES[0]}] \n\x1a\0\n")
    assert [row.url for row in rows] == URLS[:1]


def test_arrays_that_end_within_a_value_are_cut_off() -> None:
    whole = json.dumps([{"url": URLS[0], "n": [1, {"a": "b"}]}, {"url": URLS[1], "ok": True}], indent=1)
    for length in range(len(whole) - 40, len(whole)):
        assert message_of(whole[:length]).startswith("list is cut off: ")


def test_a_value_that_is_no_json_is_shown_with_its_line() -> None:
    assert message_of(f"[{LINES[0]},\n{{'url': 1}}]") == (
        "list, line 2: expected JSON: a URL or an object, got \"'url': 1}]\""
    )


@pytest.mark.parametrize("broken", ['{"url": "http://a.ex', '{"url":' + "[" * 9000 + "]" * 9000 + "}", "17", "null"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_line_that_is_broken_costs_no_others(broken: str, at: int) -> None:
    rows, said = read("\n".join([*LINES[:at], broken, *LINES[at:]]))
    assert [row.url for row in rows if row.url in URLS] == URLS
    (line,) = said
    assert line == (
        f"list, line {at + 1}: the row has more cells than columns, or is neither a URL nor an object: it will be "
        "rejected as bad_url"
    )


def test_a_caption_of_100_kb_in_the_first_line_does_not_make_it_another_format() -> None:
    first = json.dumps({"caption": "a cat " * 17_000, "url": URLS[0]})
    rows, _ = read("\n".join([first, "{broken", *LINES[1:]]))
    assert [row.url for row in rows] == [URLS[0], "{broken", *URLS[1:]]
    assert rows[0].caption == ("a cat " * 17_000).strip()


@given(st.dictionaries(st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=5), max_size=4))
def test_any_names_and_texts_are_stored(columns: dict[str, str]) -> None:
    rows, _ = read(json.dumps({**columns, "url": URLS[0]}))
    assert [row.url for row in rows] == URLS[:1]


def test_captions_and_labels_are_found_where_they_begin_late() -> None:
    late = json.dumps({"url": URLS[2], "caption": "a cat", "label": "cat", "n": 1})
    rows, _ = read("\n".join([LINES[0]] * 150 + [late]))
    assert rows[-1] == ListRow(URLS[2], "a cat", "cat", {"n": 1}, 151)


def test_a_column_that_is_not_found_may_be_further_on() -> None:
    late = "\n".join([LINES[0]] * 150 + [json.dumps({"url": URLS[2], "meaning": "a cat"})])
    with pytest.raises(PermanentError) as raised:
        list(reading.read(io.BytesIO(late.encode()), "list", Columns(caption="meaning")))
    assert str(raised.value) == 'list has no column "meaning" among its first 100 rows; known are url'


def test_columns_of_a_row_that_are_cut_off_are_said() -> None:
    _, said = read(json.dumps({"url": URLS[0], "a": "\U0001f408" * 10_000, "b": "c"}))
    assert len(said) == 1
    assert "are more or longer than is kept" in said[0]


def test_sequences_of_records_are_read() -> None:
    rows, said = read("".join(f"\x1e{line}\n" for line in LINES))
    assert ([row.url for row in rows], said) == (URLS, [])

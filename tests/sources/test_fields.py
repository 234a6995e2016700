from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pixcrawler_worker.sources.fields import Side, Text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


class Entry(BaseModel):
    text: Text = None
    side: Side = None


@given(json_values, json_values)
def test_any_value_is_a_usable_one_or_a_missing_one(text: Any, side: Any) -> None:
    entry = Entry.model_validate({"text": text, "side": side})
    assert entry.text is None or isinstance(entry.text, str)
    assert entry.side is None or 0 < entry.side < 2**31


def test_usual_values_are_kept() -> None:
    assert Entry.model_validate({"text": "4.0", "side": 160}) == Entry(text="4.0", side=160)
    assert Entry.model_validate({"text": 4.0, "side": "160"}) == Entry(text="4.0", side=160)

import pytest

from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError


@pytest.mark.parametrize(
    ("row", "details"),
    [
        (ListRow("u"), None),
        (ListRow("u", caption="a red cat"), {"caption": "a red cat"}),
        (ListRow("u", label="cat"), {"label": "cat"}),
        (
            ListRow("u", "a red cat", "cat", {"n": [1, None]}),
            {"caption": "a red cat", "label": "cat", "columns": {"n": [1, None]}},
        ),
    ],
)
def test_a_row_is_stored_as_its_url_and_what_else_it_says(row: ListRow, details: object) -> None:
    assert row.details() == details
    assert ListRow.of("u", details) == row


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (7, "details of a row: expected an object, got 7"),
        ({"caption": 7}, "details.caption of a row: expected a string, got 7"),
        ({"label": ["cat"]}, "details.label of a row: expected a string, got an array"),
        ({"columns": "a"}, "details.columns of a row: expected an object, got 'a'"),
    ],
)
def test_what_another_program_has_stored_is_rejected_by_name(details: object, message: str) -> None:
    with pytest.raises(PermanentError) as raised:
        ListRow.of("u", details)
    assert str(raised.value) == message

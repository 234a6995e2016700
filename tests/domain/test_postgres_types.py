import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.postgres_types import MAX_INT4, MAX_INT8, storable

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@example("a\x00b\ud800c")
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ANY_TEXT)
def test_any_text_can_be_stored_and_reads_back_as_it_was_written(database_url: str, text: str) -> None:
    with psycopg.connect(database_url) as connection:
        (stored,) = connection.execute("SELECT %s::text", [storable(text)]).fetchone() or (None,)
    assert stored == storable(text)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_a_text_that_can_be_stored_stays_as_it_is(text: str) -> None:
    assert storable(text) == text


def test_what_cannot_be_stored_is_removed_or_replaced() -> None:
    assert storable("a\x00b\ud800c") == "ab?c"


@pytest.mark.parametrize(("name", "largest"), [("integer", MAX_INT4), ("bigint", MAX_INT8)])
def test_the_largest_integers_fit_and_the_next_ones_do_not(database_url: str, name: str, largest: int) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute(f"SELECT '{largest}'::{name}").fetchone() == (largest,)
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            connection.execute(f"SELECT '{largest + 1}'::{name}")

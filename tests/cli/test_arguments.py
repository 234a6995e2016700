"""Types of arguments that several commands take."""

from collections.abc import Mapping

import pytest
from calls import call


@pytest.mark.parametrize(
    "words",
    [
        ["crawl", "cat", "--max-images", "0"],
        ["crawl", "cat", "--max-images", "3000000000"],
        ["crawl", "cat", "--project", "99999999999999"],
        ["jobs", "show", "99999999999999"],
        ["jobs", "watch", "99999999999999"],
        ["jobs", "cancel", "99999999999999"],
        ["jobs", "retry", "0"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "list", "--limit", "99999999999999999999"],
    ],
    ids=" ".join,
)
def test_a_number_out_of_range_is_an_invalid_argument(env: Mapping[str, str], words: list[str]) -> None:
    result = call(env, *words)
    assert result.exit_code == 2
    assert "is not between 1 and 2147483647" in result.stderr

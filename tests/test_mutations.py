"""The mutations of tests/mutations.py fit the code as it is: `make mutations` runs them."""

from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

TESTS = Path(__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_text_occurs_once_and_its_tests_exist(mutation: Mutation) -> None:
    assert mutation.path(TESTS.parent).is_file()
    assert mutation.old != mutation.new
    assert all((TESTS / name).exists() for name in mutation.tests)

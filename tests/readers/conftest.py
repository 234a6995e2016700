"""The exports that readers open, made once for each module."""

import pytest
from readers.shelf import Shelf

from pixcrawler_worker.runtime import Runtime


@pytest.fixture(scope="module")
def shelf(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(runtime, tmp_path_factory.mktemp("exports"))

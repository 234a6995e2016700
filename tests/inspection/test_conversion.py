from typing import Any

import pytest

from pixcrawler_worker.inspection.conversion import Conversion


@pytest.mark.parametrize(
    "wrong",
    [{"format": "jpeg"}, {"mode": "fit"}, {"quality": 0}, {"quality": 101}, {"background": "white"}, {"size": -1}],
)
def test_an_invalid_conversion_is_a_value_error(wrong: dict[str, Any]) -> None:
    mode = {"mode": "cover"} if "size" in wrong else {}
    with pytest.raises(ValueError, match=r"is not one of|needs a size|quality is|is not #"):
        Conversion(**{"format": "jpg"} | mode | wrong)

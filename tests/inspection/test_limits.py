import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits


def test_every_limit_can_be_met_and_not_exceeded() -> None:
    body = samples.encoded(samples.scene(), "GIF", save_all=True, append_images=[samples.scene(seed=1)])
    exact = {"max_pixels": 160 * 120, "max_side": 160, "max_frames": 2, "max_frame_pixels": 2 * 160 * 120}
    assert inspect_bytes(body, Limits(**exact)).frames == 2

    for name, value in exact.items():
        with pytest.raises(RejectedError) as rejection:
            inspect_bytes(body, Limits(**exact | {name: value - 1}))
        assert rejection.value.reason is Reason.TOO_MANY_PIXELS

import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection import headers


@pytest.mark.parametrize("name", ["png", "webp", "gif", "avif"])
def test_a_truncated_container_is_rejected_before_it_is_decoded(name: str) -> None:
    with pytest.raises(RejectedError, match="the file ends"):
        headers.read(samples.variant(name)[:-30], enough_frames=2)


@pytest.mark.parametrize("body", [samples.gif(9, 9, frames=1000), samples.tiff(9, 9, pages=1000)])
def test_frames_are_counted_up_to_the_limit_only(body: bytes) -> None:
    assert headers.read(body, enough_frames=6).frames == 6

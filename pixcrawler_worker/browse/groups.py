"""Groups of near duplicates: by the hashes that the crawl recorded, and by the validation."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from pixcrawler_worker.db.browsed_images import BrowsedImage
from pixcrawler_worker.db.image_records import UNSIGNED
from pixcrawler_worker.validate import duplicates
from pixcrawler_worker.validate.rules import LowInformation, NearDuplicate, Uniform

_ALIKE, _PLAIN, _FLAT = NearDuplicate(), LowInformation(), Uniform()


def near_duplicates(images: Sequence[BrowsedImage]) -> list[list[int]]:
    """Return groups of near duplicates as positions of images: large groups first, the best image of each group first.

    Groups are those of the validation, and those that its check `near_duplicate` would find with its default limits:
    so there are some before any validation.

    Args:
        images: of one job.
    """
    parents = list(range(len(images)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    places = {image.record.id: at for at, image in enumerate(images)}
    ranks, alike = _compared(images)
    pairs = [
        *((places[image.keeper_id], at) for at, image in enumerate(images) if image.keeper_id in places),
        *((keeper, at) for at, keeper in alike.items()),
    ]
    for keeper, at in pairs:
        parents[root(at)] = root(keeper)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for at in {one for pair in pairs for one in pair}:
        members[root(at)].append(at)
    # An image that the validation keeps is before those that it would replace.
    found = [sorted(group, key=lambda at: (images[at].keeper_id is not None, ranks[at])) for group in members.values()]
    return sorted((group for group in found if len(group) > 1), key=lambda group: (-len(group), group[0]))


def _compared(images: Sequence[BrowsedImage]) -> tuple[Sequence[int], dict[int, int]]:
    """Return the rank of each image, the best ones first, and the better image that each near duplicate looks like."""
    records = [image.record for image in images]
    order = duplicates.best_first(
        np.array([image.valid is not False for image in images], dtype=np.int8),
        np.array([max(one.width or 0, 0) * max(one.height or 0, 0) for one in records], dtype=np.int64),
        np.array([max(one.file_size or 0, 0) for one in records], dtype=np.int64),
        np.array([one.id for one in records], dtype=np.int64),
    )
    ranks = np.empty(len(images), dtype=np.int64)
    ranks[order] = np.arange(len(images))
    comparable = np.array([_is_comparable(image) for image in images], dtype=bool)
    alike = duplicates.near(
        np.array([(one.phash or 0) & UNSIGNED for one in records], dtype=np.uint64),
        np.array([(one.dhash or 0) & UNSIGNED for one in records], dtype=np.uint64),
        order[comparable[order]],
        max_distance=_ALIKE.max_distance,
        confirm_distance=_ALIKE.confirm_distance,
    )
    return ranks.tolist(), alike


def _is_comparable(image: BrowsedImage) -> bool:
    """Return whether the hashes of an image say how it looks: those of a plain one do not."""
    entropy, std = image.metrics.get("entropy"), image.metrics.get("std")
    is_plain = isinstance(entropy, int | float) and entropy < _PLAIN.entropy_below
    is_flat = isinstance(std, int | float) and std < _FLAT.std_below
    return image.record.phash is not None and image.record.dhash is not None and not is_plain and not is_flat

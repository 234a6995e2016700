"""Five providers on loopback, with works of three keywords of which a share is there twice, and a share is dead."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from fakes import providers
from fakes.api import Api
from fakes.flickr import Flickr
from fakes.pexels import Pexels
from fakes.providers import Catalog, Providers, Work
from fakes.unsplash import Unsplash

KEYWORDS = ("red panda", "snow leopard", "barn owl")
APIS: dict[str, type[Api]] = {"flickr": Flickr, "pexels": Pexels, "unsplash": Unsplash}
NAMES = ("commons", "openverse", *APIS)

#: Works by source and keyword.
Works = Mapping[str, Mapping[str, Sequence[Work]]]


def works(counts: Mapping[str, Sequence[int]], *, repeated: float = 0.3, dead: float = 0.2) -> Works:
    """Return works of all keywords: a share has the file of an earlier one at any source, a share is dead.

    Args:
        counts: of the works for each keyword, by source.
        repeated: a share of all.
        dead: likewise.
    """
    chance, numbers = random.Random(7), iter(range(10**6))
    files: dict[str, list[int]] = {keyword: [] for keyword in KEYWORDS}
    made: dict[str, dict[str, list[Work]]] = {name: {keyword: [] for keyword in KEYWORDS} for name in NAMES}
    for name, of_keywords in counts.items():
        for keyword, count in zip(KEYWORDS, of_keywords, strict=True):
            for number in (next(numbers) for _ in range(count)):
                is_repeated = files[keyword] and chance.random() < repeated
                files[keyword].append(chance.choice(files[keyword]) if is_repeated else number)
                is_dead = chance.random() < dead
                made[name][keyword].append(Work(number, keyword, files[keyword][-1], dead=is_dead))
    return made


@contextmanager
def serving(found: Works) -> Iterator[tuple[Providers, dict[str, Api]]]:
    """Serve all providers with these works."""

    def listed(name: str) -> dict[str, list[Work]]:
        return {keyword: list(some) for keyword, some in found[name].items()}

    with ExitStack() as stack:
        servers = stack.enter_context(providers.serving(Catalog(listed("commons"), listed("openverse"))))
        yield servers, {name: stack.enter_context(kind(catalog=found[name]).serving()) for name, kind in APIS.items()}

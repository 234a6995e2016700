from pixcrawler_worker.jobs.setbacks import Setbacks


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_pause_of_a_row_grows_and_passing_trouble_pauses_only_when_it_repeats() -> None:
    clock = Clock()
    setbacks = Setbacks(clock)
    assert setbacks.note("start", "toy", 1, passing=True) == 1
    assert setbacks.waiting("start", "toy") == set()
    assert setbacks.note("start", "toy", 2, passing=False) == 1
    assert setbacks.waiting("start", "toy") == {2}
    clock.now = 6
    assert setbacks.waiting("start", "toy") == set()
    assert setbacks.note("start", "toy", 1, passing=True) == setbacks.note("start", "toy", 2, passing=False) == 2
    clock.now = 12
    assert setbacks.waiting("start", "toy") == {1, 2}
    assert setbacks.waiting("reap", "toy") == setbacks.waiting("start", "crawl") == set()


def test_a_row_that_succeeds_is_forgotten() -> None:
    setbacks = Setbacks(Clock())
    assert [setbacks.note("start", "toy", 2, passing=False) for _ in range(3)] == [1, 2, 3]
    setbacks.forget("start", "toy", 2)
    setbacks.forget("reap", "crawl", 1)
    assert setbacks.waiting("start", "toy") == set()
    assert setbacks.note("start", "toy", 2, passing=False) == 1

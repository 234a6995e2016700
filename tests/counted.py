"""Reads what this process has counted for metrics."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY


def total(name: str, **labels: str) -> float:
    """The value of a counter of the package; 0 before the first count."""
    return REGISTRY.get_sample_value(f"pixcrawler_{name}_total", labels) or 0.0


@contextmanager
def counting(name: str, times: float, **labels: str) -> Iterator[None]:
    """Check that a counter rises by so much while the context is open."""
    before = total(name, **labels)
    yield
    assert total(name, **labels) - before == times

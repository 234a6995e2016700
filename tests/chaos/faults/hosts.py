"""Web servers that are slow, fail, or reset connections; and a provider that is down or asks to wait."""

import urllib.request

from chaos.faults.catalog import Arena, fault


def _set(arena: Arena, mood: str, seconds: float) -> None:
    with urllib.request.urlopen(f"{arena.servers.steady}/set/{mood}/{seconds}", timeout=10):
        arena.hold(seconds)


@fault("hosts slow", "hosts")
def slow(arena: Arena) -> None:
    _set(arena, "slow", arena.between(1, 4))


@fault("hosts failing", "hosts")
def failing(arena: Arena) -> None:
    _set(arena, "failing", arena.between(1, 5))


@fault("hosts resetting", "hosts")
def resetting(arena: Arena) -> None:
    _set(arena, "resetting", arena.between(1, 5))


@fault("provider down", "hosts")
def provider_down(arena: Arena) -> None:
    _set(arena, "down", arena.between(0.5, 2))


@fault("provider throttling", "hosts")
def provider_throttling(arena: Arena) -> None:
    _set(arena, "throttled", arena.between(0.5, 2))

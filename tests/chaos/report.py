"""The end of a run: one table on 80 columns, and whether anything was violated."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.recovery import percentile

WIDTH = 80
#: Violations of one sort that are printed in full.
_SHOWN = 5


@dataclass
class Outcome:
    """Everything that a run found.

    Attributes:
        seconds: that faults were injected for.
        bound: seconds in which a chunk must run again.
        faults: applied, skipped and failed, by kind.
        violations: by sort, each in a line of its own.
        numbers: what was counted, in order.
        ends: of jobs, by kind and end.
        up, down: seconds until chunks ran again without and with other faults meanwhile; sorted.
        resources: medians of the first and the last quarter.
        log: of all events.
        notes: on what was left out.
    """

    seconds: float
    bound: float
    faults: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    violations: dict[str, Sequence[str]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    ends: dict[tuple[str, str], int] = field(default_factory=dict)
    up: Sequence[float] = ()
    down: Sequence[float] = ()
    resources: dict[str, tuple[float, float]] = field(default_factory=dict)
    log: Path = Path()
    notes: Sequence[str] = ()

    @property
    def failed(self) -> bool:
        """Whether something was violated."""
        return any(self.violations.values())


def lines(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from _heading("Faults by kind: applied, not applicable at that moment, failed")
    yield from _row("kind", "applied", "skipped", "failed")
    for kind, counts in outcome.faults.items():
        yield from _row(kind, *counts)
    applied = sum(counts[0] for counts in outcome.faults.values())
    kinds = sum(bool(counts[0]) for counts in outcome.faults.values())
    yield from _row(f"all, {applied / max(outcome.seconds, 1):.2f} a second, {kinds} kinds", applied, "", "")
    yield from _heading("Jobs by kind and end")
    for (kind, end), count in sorted(outcome.ends.items()):
        yield from _row(f"{kind}: {end}", count)
    yield from _heading("What was done and looked at")
    for name, number in outcome.numbers.items():
        yield from _row(name, number)
    yield from _heading("Seconds until a lost chunk ran again, or a lost message was sent again")
    yield from _row("", "chunks", "p50", "p99", "longest")
    for name, times in (("no other fault meanwhile", outcome.up), ("other faults meanwhile", outcome.down)):
        spread = [percentile(times, share) for share in (0.5, 0.99, 1)]
        yield from _row(name, len(times), *(f"{value:.1f}" for value in spread))
    yield from _row("p99 must be under lease + sweep + 3 s", f"{outcome.bound:.0f}")
    yield from _heading("Resources: medians of the first and the last quarter, largest of all processes")
    yield from _row("", "first", "last")
    for name, (first, last) in outcome.resources.items():
        yield from _row(name, f"{first:.1f}", f"{last:.1f}")
    yield from _heading("Violations")
    for sort, found in outcome.violations.items():
        yield from _row(sort, len(found))
    for sort, found in outcome.violations.items():
        for one in found[:_SHOWN]:
            yield f"  {sort}: {one}"
    yield from outcome.notes
    yield f"Events: {outcome.log}"
    yield "FAILED" if outcome.failed else "passed"


def _heading(text: str) -> Iterable[str]:
    return "", text, "-" * WIDTH


def _row(name: str, *values: object) -> Iterable[str]:
    cells = "".join(f"{value:>9}" for value in values)
    return (f"{name[: WIDTH - len(cells) - 1]:<{WIDTH - len(cells)}}{cells}",)

"""An error, a broken connection or a kill at any statement of any transition costs nothing, of any kind of job.

`make crash-points` tries all of them, in half an hour. Here are a few transitions of few statements.
"""

from collections.abc import Callable

import pytest
from crash_points.points import Fault, Points
from crash_points.transitions import Transition, drop_chunks, heartbeat, transitions_of
from crash_points.world import KINDS

ALL = [
    pytest.param(kind, one, fault, id=f"{kind}-{one.__name__}-{fault}")
    for kind in KINDS
    for one in transitions_of(kind)
    for fault in Fault
]


@pytest.mark.parametrize("fault", [Fault.LASTING_ERROR, Fault.LOST_ANSWER, Fault.KILL_AFTER])
@pytest.mark.parametrize("transition", [heartbeat, drop_chunks], ids=lambda one: one.__name__)
def test_a_fault_at_any_statement_of_a_short_transition_costs_nothing(
    points: Points, transition: Transition, fault: Fault
) -> None:
    assert points.try_all("toy", transition, fault) >= 4


@pytest.mark.crash_points
@pytest.mark.parametrize(("kind", "transition", "fault"), ALL)
def test_a_fault_at_any_statement_of_any_transition_costs_nothing(
    points: Points, record_property: Callable[[str, object], None], kind: str, transition: Transition, fault: Fault
) -> None:
    requests = points.try_all(kind, transition, fault)
    record_property("points", requests)
    assert requests >= 4

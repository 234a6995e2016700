"""Recovery is measured from the fault to the next claim, and not for chunks that a fault did not take."""

from chaos.recovery import Recovery, Victim, percentile


def row(chunk: int, state: str, fence: int, sent: float | None = None) -> tuple[int, str, int, float | None]:
    return chunk, state, fence, sent


def test_a_chunk_has_recovered_when_another_claim_runs_it() -> None:
    recovery = Recovery()
    recovery.expect("killed", [Victim(1, 10)], now=100)
    recovery.look([row(1, "running", 10)], now=101)
    recovery.look([row(1, "queued", 10)], now=102)
    assert not recovery.recovered
    recovery.look([row(1, "running", 11)], now=103)
    assert [(one.chunk, one.seconds) for one in recovery.recovered] == [(1, 3)]
    assert not recovery.awaited()


def test_a_lost_message_is_recovered_when_it_is_sent_again() -> None:
    recovery = Recovery()
    recovery.expect("flushed", [Victim(1, 10, sent=50.0), Victim(2, 20, sent=50.0)], now=100)
    recovery.look([row(1, "queued", 10, 50.0), row(2, "running", 21, 50.0)], now=101)
    recovery.look([row(1, "queued", 10, 60.0)], now=103)
    assert [(one.chunk, one.seconds) for one in recovery.recovered] == [(2, 1), (1, 3)]


def test_a_chunk_that_ended_before_its_process_was_gone_is_not_counted() -> None:
    recovery = Recovery()
    recovery.expect("killed", [Victim(1, 10), Victim(2, 20), Victim(3, 30)], now=100)
    recovery.look([row(1, "completed", 10), row(2, "cancelled", 20)], now=101)
    assert not recovery.recovered
    assert not recovery.awaited()


def test_a_snapshot_from_before_the_fault_says_nothing() -> None:
    recovery = Recovery()
    recovery.expect("killed", [Victim(1, 10)], now=100)
    recovery.look([row(1, "running", 11)], now=99)
    assert recovery.awaited() == [1]


def test_what_another_fault_disturbed_is_counted_apart() -> None:
    recovery = Recovery()
    recovery.expect("killed", [Victim(1, 10), Victim(2, 20)], now=100)
    recovery.disturb("killed", 100, 101)
    recovery.look([row(1, "running", 11), row(2, "queued", 20)], now=102)
    recovery.disturb("hangs", 103, 104)
    recovery.look([row(2, "running", 21)], now=110)
    assert recovery.times() == ([2], [10])


def test_a_chunk_that_two_faults_took_is_counted_apart() -> None:
    recovery = Recovery()
    recovery.expect("killed", [Victim(1, 10)], now=100)
    recovery.expect("flushed", [Victim(1, 10)], now=101)
    recovery.look([row(1, "running", 11)], now=110)
    assert recovery.times() == ([], [10])


def test_percentiles() -> None:
    values = [float(value) for value in range(100)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 99]
    assert percentile([], 0.5) == 0

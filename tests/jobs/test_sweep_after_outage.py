"""After an outage of the database, leases have expired whose owners live: they could not extend them either."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ledger
import pytest
from toy.kind import TOY_JOBS, make_toy, toy_kind

from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.jobs import submission, sweeper
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.jobs.sweeper import Swept
from pixcrawler_worker.runtime import Runtime

_REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '53100'; END $$
"""


@contextmanager
def refused(sessions: Sessions) -> Iterator[None]:
    """Let the database refuse every change of a chunk, and so heartbeats too."""
    ledger.execute(sessions, _REFUSE)
    ledger.execute(
        sessions,
        "CREATE TRIGGER refuse BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    try:
        yield
    finally:
        ledger.execute(sessions, "DROP TRIGGER refuse ON pixcrawler.chunks")


def away(runtime: Runtime) -> Runtime:
    """Return a runtime whose database is away."""
    return replace(runtime, sessions=session.sessions(session.connect("postgresql://worker@127.0.0.1:1/absent")))


def sweep(runtime: Runtime, setbacks: Setbacks) -> Swept:
    return sweeper.sweep(runtime, [toy_kind()], setbacks=setbacks)


def claimed(runtime: Runtime, sessions: Sessions) -> Claim:
    """Return the claim of a chunk whose lease has expired."""
    ref = make_toy(sessions, numbers=1)
    (message,) = submission.start(runtime, toy_kind(), ref.id)
    with sessions.begin() as opened:
        claim = ledger.claim_of(opened, TOY_JOBS, message.chunk_id)
    ledger.expire_lease(sessions, claim.chunk_id)
    return claim


def crashes(sessions: Sessions, claim: Claim) -> tuple[str, int]:
    """Return the state of a chunk, and how often it crashed."""
    state, count = ledger.row(
        sessions, "SELECT state, crash_count FROM pixcrawler.chunks WHERE id = :id", id=claim.chunk_id
    )
    return state, count


def test_an_owner_that_lives_keeps_its_chunk_after_an_outage(runtime: Runtime, sessions: Sessions) -> None:
    claim, setbacks = claimed(runtime, sessions), Setbacks()
    with refused(sessions):
        for _ in range(2):
            assert sweep(runtime, setbacks).reaped == 0
            setbacks.forget("reap", "toy", claim.chunk_id)  # no pause: this is about the sweep that comes at once
    assert sweep(runtime, setbacks).reaped == 0
    with sessions.begin() as opened:
        assert chunks.heartbeat(opened, claim, lease=ledger.LEASE)
    assert sweep(runtime, setbacks).reaped == 0
    assert crashes(sessions, claim) == (ChunkState.RUNNING, 0)


def test_the_chunk_of_an_owner_that_is_dead_is_reaped_a_little_later(runtime: Runtime, sessions: Sessions) -> None:
    # A lease of a minute, and so a grace of ten seconds: a busy machine takes some of it to look.
    runtime = replace(runtime, settings=runtime.settings.model_copy(update={"lease_seconds": 60}))
    claim, setbacks = claimed(runtime, sessions), Setbacks()
    with refused(sessions):
        sweep(runtime, setbacks)
    assert sweep(runtime, setbacks).reaped == 0
    left = ledger.scalar(
        sessions, "SELECT lease_until - clock_timestamp() FROM pixcrawler.chunks WHERE id = :id", id=claim.chunk_id
    )
    assert 0.5 < left.total_seconds() / max(runtime.settings.lease_seconds / 6, 1.0) <= 1
    assert sweep(runtime, setbacks).reaped == 0, "its grace is not over"
    ledger.expire_lease(sessions, claim.chunk_id)
    assert sweep(runtime, setbacks).reaped == 1
    assert crashes(sessions, claim) == (ChunkState.QUEUED, 1)


def test_a_sweep_that_reached_no_database_lets_owners_be_first(runtime: Runtime, sessions: Sessions) -> None:
    claim, setbacks = claimed(runtime, sessions), Setbacks()
    assert sweep(away(runtime), setbacks).failed > 0
    assert sweep(runtime, setbacks).reaped == 0
    assert crashes(sessions, claim) == (ChunkState.RUNNING, 0)


def test_sweeps_that_are_always_interrupted_spare_a_chunk_once(runtime: Runtime, sessions: Sessions) -> None:
    claim, setbacks = claimed(runtime, sessions), Setbacks()
    setbacks.interrupt()
    assert sweep(runtime, setbacks).reaped == 0
    ledger.expire_lease(sessions, claim.chunk_id)
    setbacks.interrupt()
    assert sweep(runtime, setbacks).reaped == 1


@pytest.mark.parametrize("sweeps", [0, 2])
def test_without_an_outage_just_before_a_chunk_is_reaped_at_once(
    runtime: Runtime, sessions: Sessions, sweeps: int
) -> None:
    setbacks = Setbacks()
    if sweeps:
        setbacks.interrupt()
    for _ in range(sweeps):
        sweep(runtime, setbacks)
    claim = claimed(runtime, sessions)
    assert sweep(runtime, setbacks).reaped == 1
    assert crashes(sessions, claim) == (ChunkState.QUEUED, 1)

"""Queries that are made once: what they leave out, and that nothing in them is taken for a parameter."""

import pytest
from factories import start_job
from sqlalchemy import Select, func, literal, select

from pixcrawler_worker.db.ledger import looks
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions


def _chunks(job_id: int) -> Select[int]:
    return select(Chunk.id).where(Chunk.crawl_job_id == job_id, looks.not_skipped(Chunk.id)).order_by(Chunk.id)


@pytest.mark.parametrize("skipped", [0, 1, 3, 40])
def test_ids_are_left_out_however_many_there_are(sessions: Sessions, skipped: int) -> None:
    job = start_job(sessions, chunks=40)
    with sessions.begin() as session:
        every = looks.ids(session, _chunks, job.id)
        assert len(every) == 40
        skip = {*every[:skipped], 2**62, -1}
        assert looks.ids(session, _chunks, job.id, skip=skip) == every[skipped:]


def test_a_query_is_made_once_for_the_same_arguments(sessions: Sessions) -> None:
    made: list[int] = []

    def query(number: int) -> Select[int]:
        made.append(number)
        return select(literal(number))

    with sessions.begin() as session:
        assert [looks.ids(session, query, number) for number in (1, 2, 1, 2)] == [[1], [2], [1], [2]]
    assert made == [1, 2]


def test_values_with_signs_of_parameters_are_values(sessions: Sessions) -> None:
    def query(value: str) -> Select[str]:
        return select(func.concat(value, literal("%(skip)s:x")))

    with sessions.begin() as session:
        assert looks.find(session, query, "100 % 'of' %s \\ SKIPPED") == [("100 % 'of' %s \\ SKIPPED%(skip)s:x",)]

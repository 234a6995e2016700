"""Celery's consumer with the settings of the app; what it does in a worker is tested in `acceptance`."""

from types import SimpleNamespace
from typing import Any

import pytest

from pixcrawler_worker.broker.consumer import Consumer
from pixcrawler_worker.broker.reading import UnreadableError
from pixcrawler_worker.celery import app


@pytest.fixture
def consumer() -> Any:
    # Celery's steps need a pool to ask for its kind, and the options as the command line gives them.
    pool: Any = SimpleNamespace(is_green=False, num_processes=1)
    given = {"without_gossip": False, "without_mingle": False, "without_heartbeat": False}
    controller = SimpleNamespace(use_eventloop=True)
    return Consumer(lambda _: None, app=app, pool=pool, controller=controller, worker_options=given)


def test_workers_do_not_talk_to_each_other_but_to_flower(consumer: Any) -> None:
    running = {type(step).__name__ for step in consumer.steps}
    assert not running & {"Gossip", "Mingle"}
    assert running >= {"Events", "Heart", "Control", "Tasks"}


def test_a_child_that_died_before_the_first_start_does_not_end_the_worker(consumer: Any) -> None:
    # At 0, after the first start, Celery ends the worker when a child has exited by then.
    assert consumer.restart_count + 1 > 0


def test_what_it_cannot_handle_reaches_the_transport(consumer: Any) -> None:
    message: Any = None
    with pytest.raises(ValueError, match="a"):
        consumer.on_decode_error(message, ValueError("a"))
    with pytest.raises(ValueError, match="a"):
        consumer.on_invalid_task(None, message, ValueError("a"))
    with pytest.raises(UnreadableError):
        consumer.on_unknown_message(None, message)

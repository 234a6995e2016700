"""Connections to the configured services, or to embedded ones."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from calls import call
from factories import make_job

from pixcrawler_worker.cli import connection, environment
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError


def test_configured_services_are_used(env: Mapping[str, str]) -> None:
    os.environ.update(env)
    assert environment.load_settings().require_database() == env["PIXCRAWLER_DATABASE_URL"]
    assert environment.load_settings().require_broker() == env["PIXCRAWLER_BROKER_URL"]


def test_embedded_services_are_found_where_none_are_configured(services: Services) -> None:
    os.environ["PIXCRAWLER_DATA_DIR"] = str(services.data_dir)
    found = environment.load_settings()
    assert (found.require_database(), found.require_broker()) == (services.database_url, services.broker_url)
    # What this process starts finds them too.
    assert os.environ["PIXCRAWLER_DATABASE_URL"] == services.database_url
    assert os.environ["PIXCRAWLER_BROKER_URL"] == services.broker_url


def test_without_services_the_error_says_what_to_do() -> None:
    with pytest.raises(PermanentError, match=r"set PIXCRAWLER_DATABASE_URL.*`pixcrawler up`"), connection.connect():
        pass


def test_services_that_are_stopped_run_as_long_as_their_data_is_read(tmp_path: Path) -> None:
    os.environ["PIXCRAWLER_DATA_DIR"] = str(tmp_path)
    with pytest.raises(PermanentError, match="no database is configured"), connection.connect_to_data():
        pass
    assert not environment.are_stopped(), "there is no data"
    with launcher.running(tmp_path):
        assert not environment.are_stopped()
    assert environment.are_stopped()
    with connection.connect_to_data() as opened:
        # The tables are those of this version.
        assert transact(opened.sessions, lambda session: job_views.newest(session, CrawlView, limit=1)) == []
        job_id = make_job(opened.sessions, status="failed")
    assert launcher.find(tmp_path) is None
    for name in ("DATABASE_URL", "BROKER_URL"):
        del os.environ[f"PIXCRAWLER_{name}"]
    # Without a worker, a retry is done at once, and says what runs the job.
    retried = call(os.environ, "jobs", "retry", str(job_id))
    assert retried.stdout == (
        f"job {job_id} is queued for a retry. No worker runs in this directory. "
        f"Run it: pixcrawler build --job {job_id}, or all: pixcrawler up\n"
    )
    assert launcher.find(tmp_path) is None


def test_a_runtime_is_closed_with_its_context(env: Mapping[str, str]) -> None:
    os.environ.update(env)
    with connection.connect() as opened:
        assert not opened.loop.is_closed()
    assert opened.loop.is_closed()

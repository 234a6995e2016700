"""Connections to the configured services, or to embedded ones."""

import os
from collections.abc import Mapping

import pytest

from pixcrawler_worker.cli import connection
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError


def test_configured_services_are_used(env: Mapping[str, str]) -> None:
    os.environ.update(env)
    assert connection.load_settings().require_database() == env["PIXCRAWLER_DATABASE_URL"]
    assert connection.load_settings().require_broker() == env["PIXCRAWLER_BROKER_URL"]


def test_embedded_services_are_found_where_none_are_configured(services: Services) -> None:
    os.environ["PIXCRAWLER_DATA_DIR"] = str(services.data_dir)
    found = connection.load_settings()
    assert (found.require_database(), found.require_broker()) == (services.database_url, services.broker_url)
    # What this process starts finds them too.
    assert os.environ["PIXCRAWLER_DATABASE_URL"] == services.database_url
    assert os.environ["PIXCRAWLER_BROKER_URL"] == services.broker_url


def test_without_services_the_error_says_what_to_do() -> None:
    with pytest.raises(PermanentError, match=r"set PIXCRAWLER_DATABASE_URL.*`pixcrawler up`"), connection.connect():
        pass


def test_a_runtime_is_closed_with_its_context(env: Mapping[str, str]) -> None:
    os.environ.update(env)
    with connection.connect() as opened:
        assert not opened.loop.is_closed()
    assert opened.loop.is_closed()

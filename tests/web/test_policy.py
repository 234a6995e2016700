"""What is allowed when an operator sets nothing."""

from datetime import timedelta
from ipaddress import ip_address

import pytest

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.policy import Policy

DEFAULT = Policy(user_agent="PixCrawlerTest/1")


def test_private_networks_and_other_ports_are_not_allowed() -> None:
    assert DEFAULT.allowed_networks == ()
    assert DEFAULT.ports == {80, 443}
    guard = Guard(ports=DEFAULT.ports, allowed_networks=DEFAULT.allowed_networks, is_own=lambda _: False)
    guard.check(ip_address("93.184.215.14"), 443)
    for url in ("http://127.0.0.1/", "http://localhost/", "http://images.example:8080/"):
        with pytest.raises(RejectedError):
            guard.target(url)


def test_every_wait_and_body_has_a_limit() -> None:
    waits = (DEFAULT.connect_timeout, DEFAULT.lookup_timeout, DEFAULT.idle_timeout, DEFAULT.deadline)
    assert timedelta(0) < min(waits)
    assert max(waits) == DEFAULT.deadline
    assert 0 < DEFAULT.max_bytes <= 32 * 1024 * 1024
    assert 0 < DEFAULT.max_redirects <= 20

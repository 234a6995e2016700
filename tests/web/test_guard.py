import asyncio
import json
import os
import socket
import subprocess
import sys
from typing import Any

import namespace
import pytest
import refused
from refused import KINDS, PUBLIC, PUBLIC_IPV6, SERVER

from pixcrawler_worker.domain.reasons import Reason

# The module's fixture checks hundreds of targets, and its start is none of what it promises.
pytestmark = pytest.mark.timeout(300)

ALONE = ["unshare", "--net", "--mount", "--map-root-user"]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What `namespace.py` saw: in a network of its own, if this user may have one."""
    program = [sys.executable, namespace.__file__]
    # It takes root, or a system that lets users have namespaces.
    try:
        subprocess.run([*ALONE, "ip", "link", "add", "type", "veth"], check=True, capture_output=True)
        program = [*ALONE, *program, "--alone"]
    except (OSError, subprocess.CalledProcessError):
        pass
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(program, capture_output=True, check=False, text=True, timeout=240, env=environment)
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def alone(seen: dict[str, Any]) -> dict[str, Any]:
    if "packets" not in seen:
        pytest.skip("this user may not have a network of its own")
    return seen


def test_the_table_has_hundreds_of_cases_of_each_kind() -> None:
    urls, answers, redirects, rebinding = (KINDS[kind][0] for kind in ("urls", "answers", "redirects", "rebinding"))
    assert len({(case.url, case.answers) for case in (*urls, *answers)}) == len(urls) + len(answers)
    assert len(urls) > 250
    assert len(redirects) > 250
    assert len(answers) > 200
    assert len(rebinding) > 80
    assert {case.reason for case in redirects} == {Reason.BAD_URL, Reason.FORBIDDEN_ADDRESS, Reason.FORBIDDEN_PORT}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback interface")
def test_a_forbidden_target_is_rejected_in_every_way_and_never_connected_to(seen: dict[str, Any], kind: str) -> None:
    found = seen["table"][kind]
    assert found["cases"] == len(KINDS[kind][0])
    assert not found["wrong"]
    assert found["connects"] == ([SERVER] if kind in ("redirects", "proxy") else [])


def test_nothing_connects_to_the_addresses_of_this_machine() -> None:
    addresses = sorted({"127.0.0.1", *refused.own_addresses()})
    with refused.listening(addresses) as (port, accepted):
        found = asyncio.run(refused.rejections_of_listeners(addresses, port))
        assert set(found.values()) == {Reason.FORBIDDEN_ADDRESS}
        assert not accepted
        socket.create_connection(("127.0.0.1", port)).close()
        while not accepted:  # the listeners do count
            pass


def test_no_packet_goes_to_a_forbidden_target(alone: dict[str, Any]) -> None:
    assert not alone["packets"]["refused"]
    # What is allowed does send some, and they are seen.
    assert set(alone["packets"]["allowed"]) == {PUBLIC, PUBLIC_IPV6}


def test_public_addresses_of_this_machine_are_denied_even_where_any_address_can_be_bound(alone: dict[str, Any]) -> None:
    for found in alone["own"].values():
        assert found == {"reasons": ["forbidden_address"], "accepted": {}, "others": [False, False]}


def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(alone: dict[str, Any]) -> None:
    assert len(alone["eyeballs"]) == 4
    for found in alone["eyeballs"].values():
        assert found["reason"] is None
        assert 0.2 < found["seconds"] < 3


def test_a_silent_name_server_does_not_delay_what_others_answer(alone: dict[str, Any]) -> None:
    names = alone["names"]
    assert names["good"] == {PUBLIC: 1000}
    assert names["lookups"] == 100
    assert names["seconds"] < 2
    assert names["silent"] == {"TimeoutError": 4, "LookupsBusyError": 296}
    assert names["silent_asked"] == 4


def test_the_system_decides_what_a_name_is(alone: dict[str, Any]) -> None:
    assert alone["names"]["in_the_file"] == "8.8.4.4"
    assert alone["names"]["unknown"] == {"OSError": 100}
    assert alone["names"]["lookups_of_unknown"] == 1

"""What code that an image has smuggled into the decode process can do: nothing but answer."""

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pixcrawler_worker.inspection import kernel
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.sandbox import LAYERS

pytestmark = pytest.mark.skipif(not kernel.LINUX, reason="the sandbox needs Linux")

_SCRIPT = Path(__file__).parent / "attacked_worker.py"
#: Nothing of the worker is open in the process, whatever its layers are.
_NEVER_OPEN = {"use inherited descriptors"}


def attack(prefix: tuple[str, ...] = (), python: str = sys.executable) -> dict[str, Any]:
    """Return what became of the attempts, by column of layers."""
    environment = {"PATH": os.environ["PATH"], "PIXCRAWLER_SECRET": "the-key-of-the-worker"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run(
        [*prefix, python, str(_SCRIPT), "--json"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert isinstance(found, dict)
    if found["missing"].keys() & {"seccomp", "no new privileges"}:
        pytest.skip(f"this machine has not all layers: {found['missing']}")
    attempts: dict[str, Any] = found["attempts"]
    return attempts


def succeeded(attempts: dict[str, str]) -> set[str]:
    """Return the attempts that nothing stopped."""
    return {name for name, error in attempts.items() if not error}


@cache
def as_ordinary_user() -> tuple[tuple[str, ...], str]:
    """Return a command, and a path of Python, with which a program runs as a user without rights.

    Where that user cannot reach this Python, it is mounted at a path that it can reach, in a name space of its own.
    """
    if os.geteuid() != 0:
        return (), sys.executable
    if not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("setpriv and unshare are not installed")
    user = pwd.getpwnam("nobody")
    drop = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--bounding-set=-all")
    home = Path(sys.base_prefix)
    python = Path(sys.executable).resolve().relative_to(home)
    mounted = Path("/mnt")
    script = f'mount --bind {home} {mounted} && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh", *drop)
    check = subprocess.run([*prefix, str(mounted / python), "-c", ""], check=False, capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"no other user can run Python here: {check.stderr}")
    return prefix, str(mounted / python)


def test_smuggled_code_does_nothing_as_root_or_as_who_runs_the_tests() -> None:
    attempts = attack()
    assert succeeded(attempts["all"]) == set()
    # They are real: without a sandbox, this user's code does what it likes.
    if os.geteuid() == 0:
        assert set(attempts["none"]) - succeeded(attempts["none"]) == _NEVER_OPEN
    assert succeeded(attempts["seccomp"]) == set(), "one layer is enough"


def test_smuggled_code_does_nothing_as_an_ordinary_user() -> None:
    prefix, python = as_ordinary_user()
    attempts = attack(prefix, python)
    assert succeeded(attempts["all"]) == set()
    without = succeeded(attempts["none"])
    assert {"start a program", "read a file", "delete a file", "connect to a TCP port", "leave a child"} <= without
    # The worker hides what it has from processes of its own user.
    assert not without & {"read the worker's environment", "read the worker's memory", "write the worker's memory"}
    assert succeeded(attempts["seccomp"]) == set(), "one layer is enough"


def test_every_layer_is_in_force_or_says_why_not() -> None:
    async def story() -> dict[str, str]:
        async with aclosing(Decoder(Limits())) as decoder:
            return await decoder.sandbox()

    assert tuple(asyncio.run(story())) == LAYERS


def test_threads_that_a_decoder_needs_are_not_without_number() -> None:
    async def story() -> str:
        async with aclosing(Decoder(Limits())) as decoder:
            await decoder.sandbox()
            return await asyncio.to_thread(Path(f"/proc/{decoder.pid}/limits").read_text)

    (line,) = [line for line in asyncio.run(story()).splitlines() if line.startswith("Max processes")]
    _, _, soft, hard, _ = line.split()
    assert int(soft) == int(hard) <= 4096

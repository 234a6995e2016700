"""A worker with secrets, whose decode process is attacked: `PIXCRAWLER_SECRET=... attacked_worker.py [--json]`.

Prints what became of every attempt as a table, with a cross where nothing stopped it, or as JSON, together with the
layers of the sandbox that are not in force on this machine. The columns are no layer, each of them alone, and all.
"""

import asyncio
import ctypes
import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import DecodeProcess
from pixcrawler_worker.inspection.sandbox import LAYERS


async def attacked(layers: list[str], target: dict[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the layers that are not in force, and what became of every attempt in a process with these layers."""
    program = (str(Path(__file__).parent / "attempts.py"), ",".join(layers))
    process = DecodeProcess(Limits(), program)
    missing = {layer: why for layer, why in (await process.started()).items() if why}
    response = await process.request(json.dumps(target).encode(), Operation.FACTS, 0, seconds=60)
    process.kill()
    await process.exit_status()
    return missing, json.loads(response)


def folder_to_attack(parent: Path) -> str:
    """Return a folder with a file for each attempt on files."""
    folder = parent / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("kept", "overwritten", "truncated", "deleted", "renamed"):
        (folder / name).write_bytes(b"kept")
        (folder / name).chmod(0o600)
    return str(folder)


async def table(parent: Path) -> dict[str, Any]:
    """Return what became of the attempts, by column."""
    key = os.environ["PIXCRAWLER_SECRET"]
    secret = ctypes.create_string_buffer(key.encode())
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        unix.bind(str(parent / "socket"))
        abstract.bind(f"\0pixcrawler-{os.getpid()}")
        for server in (unix, abstract):
            server.listen(100)
        columns = {"none": [], **{layer: [layer] for layer in LAYERS}, "all": list(LAYERS)}
        # Alone, they need this one.
        for layer in ("landlock", "seccomp"):
            columns[layer] = ["no new privileges", layer]
        missing: dict[str, str] = {}
        found = {}
        for name, layers in columns.items():
            target = {
                "pid": os.getpid(),
                "secret": key,
                "address": ctypes.addressof(secret),
                "port": tcp.getsockname()[1],
                "unix": str(parent / "socket"),
                "abstract": f"pixcrawler-{os.getpid()}",
                "folder": folder_to_attack(parent),
            }
            missing, found[name] = await attacked(layers, target)
        return {"missing": missing, "attempts": found}


def printed(found: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    columns = found["attempts"]
    lines = ["| Attempt | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for attempt in columns["all"]:
        cells = ("x" if not results[attempt] else " " for results in columns.values())
        lines.append(f"| {attempt} | {' | '.join(cells)} |")
    missing = [f"not on this machine: {layer} ({why})" for layer, why in found["missing"].items()]
    return "\n".join([*lines, *missing, ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(table(Path(folder)))
    sys.stdout.write(json.dumps(outcome) if "--json" in sys.argv else printed(outcome))

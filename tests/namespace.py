"""The guard and the resolver as a program, with `--alone` for `unshare --net --mount --map-root-user`.

It runs the table of `refused.py`. Alone, it has a network of its own: the one way out is a wire (a pair of veth
interfaces), so that every packet to whatever address is sent for real, seen, and goes no further; and the name server
of the system is its own. It prints what it saw as JSON.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import refused
from refused import KINDS, PUBLIC, PUBLIC_IPV6, SERVER

from pixcrawler_worker.web import addresses
from pixcrawler_worker.web.resolver import CachingResolver, LookupsBusyError, system_lookup

#: Addresses of this machine that look like others of the public internet.
OWN, OWN_IPV6 = "93.184.215.20", "2606:4700:4700::20"
_NONLOCAL_BIND = "/proc/sys/net/ipv{}/ip_nonlocal_bind"
_IPV4, _IPV6, _ALL = 0x0800, 0x86DD, 3


def build() -> None:
    """Make the interfaces. Without ARP, the first packet to an address is the one that was meant to be sent."""
    for arguments in (
        "link set lo up",
        "link add name wire type veth peer name end",
        "link set wire arp off multicast off addrgenmode none",
        "link set end arp off multicast off addrgenmode none",
        "link set end up",
        "link set wire up",
        f"addr add {OWN}/24 dev wire",
        f"addr add {OWN_IPV6}/64 dev wire nodad",
        "route add default dev wire",
        "-6 route add default dev wire",
        "-6 route add ::/0 dev wire metric 2048",
    ):
        subprocess.run(["ip", *arguments.split()], check=True)


@contextmanager
def sniffing() -> Iterator[Counter[str]]:
    """Count the packets on all interfaces by where they go; those between the tests' server and its clients are not."""
    seen: Counter[str] = Counter()
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)

    raw.settimeout(0.1)
    done = threading.Event()

    def read() -> None:
        # Until nothing has arrived for a moment, at the end.
        while True:
            try:
                packet, (_, kind, *_) = raw.recvfrom(256)
            except TimeoutError:
                if done.is_set():
                    return
                continue
            if kind in (_IPV4, _IPV6):
                first, width = (12, 4) if kind == _IPV4 else (8, 16)
                source, target = (str(ip_address(packet[at : at + width])) for at in (first, first + width))
                if SERVER not in (source, target):
                    seen[target] += 1
            else:
                seen[f"protocol {kind:#x}"] += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        done.set()
        reader.join()
        raw.close()


def table() -> dict[str, Any]:
    """Run every case of the table, and return what was not rejected for its reason, and what was connected to."""
    found: dict[str, Any] = {}
    for kind, (cases, _) in KINDS.items():
        with refused.Connects() as connects:
            wrong = asyncio.run(refused.wrong_outcomes(kind))
        texts = {case: {way: str(reason) for way, reason in ways.items()} for case, ways in wrong.items()}
        found[kind] = {"cases": len(cases), "wrong": texts, "connects": sorted(connects.hosts())}
    return found


async def allowed() -> None:
    """Begin to request addresses that are allowed, and answer nothing."""
    requests = (
        refused.fetch("http://images.example/", refused.policy(), refused.Names([(address,)]))
        for address in (PUBLIC, PUBLIC_IPV6)
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.gather(*requests)


def eyeballs() -> dict[str, Any]:
    """Request a name whose first address is public and never answers, and whose second one is a server's."""
    found: dict[str, Any] = {}
    for first in (PUBLIC, PUBLIC_IPV6):
        for way in (refused.fetch, refused.read_leniently):
            started = time.monotonic()
            reason = asyncio.run(_beyond(first, way))
            found[f"{way.__name__} {first}"] = {"reason": reason, "seconds": time.monotonic() - started}
    return found


async def _beyond(first: str, way: refused.Way) -> str | None:
    async with refused.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as port:
        names = refused.Names([(first, SERVER)])
        return await way(f"http://images.example:{port}/", refused.policy(f"{SERVER}/32", port=port), names)


def own() -> dict[str, Any]:
    """Request this machine's addresses that look public, also where every address can be bound."""
    mine = ["127.0.0.1", "::1", OWN, OWN_IPV6]
    found: dict[str, Any] = {}
    for nonlocal_bind in ("0", "1"):
        for version in (4, 6):
            Path(_NONLOCAL_BIND.format(version)).write_text(nonlocal_bind)
        with refused.listening(mine) as (port, accepted):
            reasons = asyncio.run(refused.rejections_of_listeners(mine, port))
            time.sleep(0.1)
        others = [addresses.is_own(ip_address(address)) for address in (PUBLIC, PUBLIC_IPV6)]
        found[nonlocal_bind] = {
            "reasons": sorted(set(map(str, reasons.values()))),
            "accepted": accepted,
            "others": others,
        }
    return found


class NameServer:
    """Answers any name with an address; never one below `silent.example`, and none below `unknown.example`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            labels, at = [], 12
            while size := query[at]:
                labels.append(query[at + 1 : at + 1 + size].decode())
                at += 1 + size
            name, is_a = ".".join(labels), query[at + 1 : at + 3] == b"\0\1"
            self.asked[name] += is_a
            if name.endswith("silent.example"):
                continue
            flags = 0x8183 if name.endswith("unknown.example") else 0x8180
            answers = is_a and flags == 0x8180
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + ip_address(PUBLIC).packed
            head = query[:2] + struct.pack(">HHHHH", flags, 1, answers, 0, 0)
            self._socket.sendto(head + query[12 : at + 5] + record * answers, client)


def names() -> dict[str, Any]:
    """Look up names of a name server that answers, next to hundreds of one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in (
            ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n8.8.4.4 in-the-file.example\n"),
        ):
            replacement = Path(folder) / Path(path).name
            replacement.write_text(text)
            subprocess.run(["mount", "--bind", str(replacement), path], check=True)
        return asyncio.run(_names(NameServer()))


async def _names(server: NameServer) -> dict[str, Any]:
    resolver = CachingResolver(system_lookup, patience=timedelta(seconds=2))

    async def outcome(name: str) -> str:
        try:
            return " ".join(await resolver.addresses(name))
        except (OSError, LookupsBusyError) as error:
            return type(error).__name__

    silent = [asyncio.ensure_future(outcome(f"h{number}.silent.example")) for number in range(300)]
    await asyncio.sleep(0.1)
    started = time.monotonic()
    good = await asyncio.gather(*(outcome(f"www.d{number % 100}.example") for number in range(1000)))
    seconds = time.monotonic() - started
    return {
        "good": Counter(good),
        "seconds": seconds,
        "lookups": sum(count for name, count in server.asked.items() if name.startswith("www.d")),
        "unknown": Counter(await asyncio.gather(*(outcome("a.unknown.example") for _ in range(100)))),
        "lookups_of_unknown": server.asked["a.unknown.example"],
        "in_the_file": await outcome("in-the-file.example"),
        "silent": Counter(await asyncio.gather(*silent)),
        "silent_asked": sum(name.endswith("silent.example") for name in server.asked),
    }


def alone() -> dict[str, Any]:
    """Run everything, in a network of its own."""
    build()
    with sniffing() as refused_packets:
        found: dict[str, Any] = {"table": table()}
    with sniffing() as allowed_packets:
        asyncio.run(allowed())
    return found | {
        "packets": {"refused": refused_packets, "allowed": allowed_packets},
        "eyeballs": eyeballs(),
        "own": own(),
        "names": names(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(alone() if "--alone" in sys.argv else {"table": table()}))

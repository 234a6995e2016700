"""The web servers of a run, as a process of their own: hosts of images, one of them unsteady, and a provider.

    python -m chaos.servers      # prints a line of JSON: steady, unsteady and commons, each a URL

What a URL returns depends on the URL alone, its delay too, so that an undisturbed run of the same job is comparable.
`GET /set/slow/3` makes all hosts slow for 3 seconds; `failing` and `resetting` are for the unsteady one alone, and
`down` and `throttled` for the provider.
"""

import asyncio
import json
import sys
import time
import zlib
from contextlib import suppress
from urllib.parse import urlsplit

from aiohttp import web
from fakes import providers
from fakes.hosts import ACTED, WRITTEN, jpeg, listening
from fakes.providers import Catalog

#: What the provider has: a keyword, how many works, and which share of their files is dead.
KEYWORD, WORKS, DEAD = "fox", 60, 0.1
#: Seconds that an image takes at least, and at most; and what a slow host adds.
_DELAY, _SLOW = (0.02, 0.25), 1.5


class Moods:
    """What is wrong with the servers at the moment."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def set(self, mood: str, seconds: float) -> None:
        self._until[mood] = time.monotonic() + seconds

    def is_on(self, mood: str) -> bool:
        return time.monotonic() < self._until.get(mood, 0)


def response(body: bytes, *, kind: str = "image/jpeg") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Host:
    """A server of images: `/good/<name>.jpg`, and `/bad/<kind>/<name>.jpg` as in `fakes.hosts`."""

    def __init__(self, moods: Moods, *, unsteady: bool) -> None:
        self._moods = moods
        self._unsteady = unsteady

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await self._respond(urlsplit(head.split(" ", 2)[1]).path, writer)
            await writer.drain()

    async def _respond(self, path: str, writer: asyncio.StreamWriter) -> None:
        parts = path.removesuffix(".jpg").split("/")[1:]
        if parts[0] == "set":
            self._moods.set(parts[1], float(parts[2]))
            writer.write(response(b"ok", kind="text/plain"))
            return
        shortest, longest = _DELAY
        share = zlib.crc32(path.encode()) % 1000 / 1000
        await asyncio.sleep(shortest + share * (longest - shortest) + _SLOW * self._moods.is_on("slow"))
        if self._unsteady and self._moods.is_on("failing"):
            writer.write(WRITTEN["500"](""))
        elif self._unsteady and self._moods.is_on("resetting"):
            await ACTED["reset"](writer)
        elif parts[0] == "good":
            writer.write(response(jpeg(parts[1])))
        elif parts[0] == "bad" and parts[1] in WRITTEN:
            writer.write(WRITTEN[parts[1]](parts[2]))
        else:
            writer.write(WRITTEN["404"](""))


async def serve(moods: Moods, commons: str) -> None:
    steady, unsteady = Host(moods, unsteady=False), Host(moods, unsteady=True)
    async with listening(steady.converse) as one, listening(unsteady.converse) as other:
        urls = {"steady": f"http://127.0.0.1:{one}", "unsteady": f"http://127.0.0.1:{other}"}
        sys.stdout.write(json.dumps({**urls, "commons": commons}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    moods = Moods()

    def trouble(_number: int, _request: web.Request) -> web.Response | None:
        if moods.is_on("down"):
            return providers.down()
        return providers.throttled() if moods.is_on("throttled") else None

    # The provider has a thread of its own.
    with providers.serving(Catalog.of(KEYWORD, count=WORKS, dead=DEAD), commons=trouble) as served:
        asyncio.run(serve(moods, served.commons_url))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

"""Images of an archive that takes longer than a chunk may take: prepared in parts, and kept in storage meanwhile.

An archive is written from front to back. What is slow are its images: reading them from a slow storage, converting
them. So they are read and converted by one attempt after the other, each of which stores what it has in segments, and
the last attempt writes the archive from these. It is the same, byte for byte.
"""

import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.stored_json import Fields
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.image_reader import ImageFile
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.failures import FileMissingError

#: Bytes of images at which a segment is complete.
FULL_SEGMENT = 32 * 1024 * 1024
_LENGTHS = struct.Struct(">IQ")
_MAX_CRC, _DIGEST_BYTES = 2**32 - 1, 32
#: Reason for leaving out an image whose row appeared after its neighbors were prepared.
_MISSING = "missing"


def key(archive: str, first: int) -> str:
    """Return the key of a segment.

    Args:
        archive: key of the archive.
        first: position of the first image.
    """
    return f"{archive}.images-{first:08d}"


async def store(storage: Storage, path: str, images: Sequence[tuple[int, ImageFile | str]]) -> None:
    """Store a segment: positions of images with their files, or with the reasons why they are left out."""
    parts: list[bytes] = []
    for seq, file in images:
        head: dict[str, object] = {"seq": seq}
        body = b""
        if isinstance(file, str):
            head["left_out"] = file
        else:
            body = file.body
            head |= {name: getattr(file, name) for name in ("size", "crc", "extension", "width", "height")}
            head["sha256"] = file.sha256.hex()
        written = json.dumps(head).encode()
        parts += (_LENGTHS.pack(len(written), len(body)), written, body)
    await storage.put(path, b"".join(parts))


async def _load(storage: Storage, paths: Sequence[str]) -> AsyncGenerator[tuple[int, ImageFile | str], None]:
    """Yield what `store` wrote."""
    for path in paths:
        segment = await storage.get(path)
        at = 0
        while at < len(segment):
            try:
                head_length, body_length = _LENGTHS.unpack_from(segment, at)
                at += _LENGTHS.size
                head = json.loads(segment[at : at + head_length])
                at += head_length
                found = _parsed(head, segment[at : at + body_length])
                at += body_length
            except (ValueError, RecursionError, struct.error, PermanentError) as error:
                raise FileMissingError(f"the segment {path} is none that an attempt has written") from error
            yield found


def _parsed(head: object, body: bytes) -> tuple[int, ImageFile | str]:
    """Return the position and the file of an image in a segment, or why it is left out.

    Another program may have written it: the extension becomes a part of a name, and the numbers are believed.

    Raises:
        ValueError, PermanentError: it is none.
    """
    fields = Fields(head, "segment")
    seq = fields.integer("seq")
    if fields.has("left_out"):
        return seq, fields.text("left_out")
    file = ImageFile(
        body=body,
        size=fields.integer("size"),
        sha256=bytes.fromhex(fields.text("sha256")),
        crc=fields.integer("crc", maximum=_MAX_CRC),
        extension=fields.text("extension"),
        width=fields.integer("width"),
        height=fields.integer("height"),
    )
    if file.extension not in FORMATS or len(file.sha256) != _DIGEST_BYTES or (body and len(body) != file.size):
        raise ValueError("it does not fit together")
    return seq, file


class PreparedImages:
    """Reads the images of an archive from segments; used like an `ImageReader`.

    Args:
        storage: has the segments.
        paths: their keys, in order.
    """

    def __init__(self, storage: Storage, paths: Sequence[str]) -> None:
        self._storage = storage
        self._paths = paths

    async def read(
        self, pages: AsyncIterator[Sequence[ExportEntry]]
    ) -> AsyncGenerator[tuple[ExportEntry, ImageFile | str], None]:
        """Yield every image in its order with its file, or with the reason why it is left out.

        Raises:
            FileMissingError: when a segment is gone, or another program has written it.
            OutageError: when the storage is unavailable.
        """
        stored = _load(self._storage, self._paths)
        found = await anext(stored, None)
        async for page in pages:
            for entry in page:
                while found is not None and found[0] < entry.seq:  # a row that was deleted meanwhile
                    found = await anext(stored, None)
                yield entry, found[1] if found is not None and found[0] == entry.seq else _MISSING

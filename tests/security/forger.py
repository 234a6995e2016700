"""A decode process that was taken over: `forger.py [RESPONSE ...] LIMITS`.

It answers with one of the responses, or writes the bytes of each request as they are when there are none.
"""

import random
import socket
import struct
import sys

REQUEST = struct.Struct(">QBQ")
READY = b'{"sandbox": {}}'


def main() -> None:
    """Answer until the worker closes its end."""
    responses = sys.argv[1:-1]
    with socket.socket(fileno=0) as worker:
        worker.sendall(struct.pack(">Q", len(READY)) + READY)
        while prefix := worker.recv(REQUEST.size, socket.MSG_WAITALL):
            size, _, _ = REQUEST.unpack(prefix)
            body = worker.recv(size, socket.MSG_WAITALL) if size else b""
            if responses:
                response = random.choice(responses).encode()
                body = struct.pack(">Q", len(response)) + response
            worker.sendall(body)


if __name__ == "__main__":
    main()

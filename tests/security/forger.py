"""A decode process that was taken over: the bytes of each request are what it writes, as they are."""

import socket
import struct

REQUEST = struct.Struct(">QBH")
READY = b'{"sandbox": {}}'


def main() -> None:
    """Write what is requested until the worker closes its end."""
    with socket.socket(fileno=0) as worker:
        worker.sendall(struct.pack(">Q", len(READY)) + READY)
        while prefix := worker.recv(REQUEST.size, socket.MSG_WAITALL):
            size, _, _ = REQUEST.unpack(prefix)
            worker.sendall(worker.recv(size, socket.MSG_WAITALL) if size else b"")


if __name__ == "__main__":
    main()
